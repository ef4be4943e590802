"""Values and functions are known again in another run, and changed ones are not."""

import subprocess
import sys
from dataclasses import dataclass
from functools import partial

import pytest

from cna_lens import Circuit, InputError, Layout, Neuron, ablation
from cna_lens.metrics import is_refusal
from cna_lens.steering.comparison.identity import fingerprint, of_callable

LAYOUT = Layout((30,) * 13)


def contains(word, letter_case="lower"):
    return lambda answer: word in getattr(answer, letter_case)()


@dataclass(frozen=True)
class Judge:
    word: str

    def __call__(self, answer):
        return self.word in answer

    def method(self, answer):
        return self.word in answer


class Unsaid:
    def __call__(self, answer):
        return bool(answer)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((Neuron(1, 23),), (Neuron(1, 24),)),
        (((1, 23),), ((12, 3),)),
        ((1.0, 23.0), (1.02, 3.0)),
        (("a", "b"), ("ab", "")),
        ((1,), ("1",)),
        (([1], [2]), ([1, 2],)),
        ({"a": 1}, {"a": 2}),
        ({"a"}, {"b"}),
    ],
)
def test_values_that_differ_have_different_fingerprints(one, other):
    assert fingerprint(one) == fingerprint(one)
    assert fingerprint(one) != fingerprint(other)


def test_circuits_of_other_neurons_are_told_apart_where_their_digits_are_the_same():
    first, second = (
        ablation(Circuit((neuron,), (1.0,), LAYOUT)) for neuron in (Neuron(1, 23), Neuron(12, 3))
    )
    assert fingerprint(first) != fingerprint(second)


def test_what_has_no_settings_to_tell_is_refused():
    with pytest.raises(InputError, match="cannot be known again in another run"):
        fingerprint(Unsaid())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda answer: "x" in answer, lambda answer: "y" in answer),
        (contains("x"), contains("y")),
        (partial(contains, "x"), partial(contains, "y")),
        (partial(contains, letter_case="lower"), partial(contains, letter_case="upper")),
        (Judge("x"), Judge("y")),
        (Judge("x").method, Judge("y").method),
        (Judge("x"), Unsaid()),
        (contains, is_refusal),
    ],
)
def test_functions_that_do_something_else_are_told_apart(one, other):
    assert of_callable(one) == of_callable(one)
    assert of_callable(one) != of_callable(other)


def test_a_function_made_again_is_the_same():
    assert of_callable(contains("x")) == of_callable(contains("x"))
    assert of_callable(is_refusal) == "cna_lens.metrics.refusal.rules.is_refusal"


def test_functions_that_call_themselves_and_others_are_known():
    def counting(word):
        inner = contains(word)

        def count(answer):
            return 0 if not answer else inner(answer[0]) + count(answer[1:])

        return count

    assert of_callable(counting("x")) == of_callable(counting("x"))
    assert of_callable(counting("x")) != of_callable(counting("y"))


@pytest.mark.long
def test_another_process_gives_the_same_identity():
    # Its sets have another order, which must not show.
    code = (
        "from cna_lens.steering.comparison.identity import of_callable\n"
        "print(of_callable(lambda answer: answer in {'a', 'b', 'c', 'd', 'e'}))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
