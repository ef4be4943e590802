import math
import re
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import tiny
import torch
from steered import NEGATIVE, POSITIVE

import cna_lens
from cna_lens.metrics import kl_per_token, refusal_log_odds
from cna_lens.models import encode

# One token is certain after both prompts, of which the metric warns.
pytestmark = pytest.mark.filterwarnings("ignore:tiny-llama begins:cna_lens.CnaLensWarning")
VALIDATION = [[14, 15, 16], [17, 18]]
BENIGN = [[24, 25, 26], [27, 28], [29]]


def openings(model, prompts):
    return refusal_log_odds(model, prompts, openings=["w5", "w40"])


@pytest.fixture
def candidates(llama):
    caa = cna_lens.caa_candidates(llama, POSITIVE, NEGATIVE, coefficient=2.0)
    return (*caa, *map(cna_lens.random_direction, caa))


def choose(model, candidates, metric=openings, **options):
    options = {"max_kl": math.inf} | options
    return cna_lens.choose(model, candidates, metric, VALIDATION, BENIGN, **options)


@dataclass(frozen=True)
class OneToken:
    """Writes one token after everything, with a logit of +60."""

    token: int = 33
    name: str = "one token"

    @contextmanager
    def at(self, model, strength=1.0):
        def hook(logits, hook):
            changed = logits.clone()
            changed[..., self.token] = 60.0 * strength
            return changed

        with model.hooks(fwd_hooks=[("unembed.hook_out", hook)]):
            yield


@pytest.mark.parametrize(("prefer", "best"), [("lowest", min), ("highest", max)])
def test_the_best_mean_over_the_validation_prompts_wins(llama, candidates, prefer, best):
    scores = []
    for method in candidates:
        with method.at(llama, 0.5):
            scores.append(sum(openings(llama, VALIDATION)) / 2)
    choice = choose(llama, candidates, prefer=prefer, strength=0.5)
    assert choice.scores == pytest.approx(scores)
    assert choice.best is candidates[scores.index(best(scores))]
    assert choice.unsteered == pytest.approx(sum(openings(llama, VALIDATION)) / 2)


def test_a_candidate_that_always_writes_one_token_is_not_chosen(llama):
    (weak, *_) = cna_lens.caa_candidates(llama, POSITIVE, NEGATIVE, coefficient=0.05)
    choice = cna_lens.choose(llama, [OneToken(), weak], openings, VALIDATION, BENIGN)
    assert choice.best is weak
    assert choice.scores[0] < choice.scores[1] - 20
    assert choice.kl_per_token[0] > 10 > choice.max_kl > choice.kl_per_token[1] > 0
    assert choose(llama, [OneToken(), weak]).best.name == "one token"


@pytest.mark.parametrize("answer_tokens", [0, 4])
def test_each_candidate_has_its_divergence_on_the_negative_prompts(
    llama, candidates, answer_tokens
):
    answers = None
    if answer_tokens:
        answers = cna_lens.generate(llama, BENIGN, max_new_tokens=answer_tokens)
        assert all(answers)
    choice = choose(llama, candidates, answer_tokens=answer_tokens, strength=0.5)
    for method, found in zip(candidates, choice.kl_per_token, strict=True):
        each = kl_per_token(llama, lambda m=method: m.at(llama, 0.5), BENIGN, answers)
        known = [value for value in each if value is not None]
        assert found == pytest.approx(sum(known) / len(known))


def test_the_bound_decides_which_candidates_count(llama, candidates):
    free = choose(llama, candidates)
    by_cost = sorted(range(4), key=free.kl_per_token.__getitem__)
    for n, _ in enumerate(by_cost, start=1):
        kept = by_cost[:n]
        choice = choose(llama, candidates, max_kl=free.kl_per_token[kept[-1]])
        assert choice.best is candidates[min(kept, key=free.scores.__getitem__)]
        assert list(choice.to_frame()["kept"]) == [place in kept for place in range(4)]
        assert choice.scores == free.scores


def test_when_no_candidate_keeps_to_the_bound_the_best_one_is_named(llama, candidates):
    free = choose(llama, [OneToken(), *candidates])
    least = free.candidates[free.kl_per_token.index(min(free.kl_per_token))]
    message = (
        rf"no candidate keeps to max_kl = 1e-09 .*'one token' has the best score, "
        rf"{free.scores[0]:.3g}, at a KL of {free.kl_per_token[0]:.3g}, and "
        rf"{re.escape(repr(least.name))} the "
        rf"least KL, {min(free.kl_per_token):.3g}"
    )
    with pytest.raises(cna_lens.InputError, match=message):
        choose(llama, [OneToken(), *candidates], max_kl=1e-9)


def test_steering_of_the_answers_alone_shows_along_answers(llama):
    neurons = tuple(cna_lens.Neuron(layer, i) for layer in (0, 1) for i in range(tiny.WIDTH))
    circuit = cna_lens.Circuit(neurons, (1.0,) * len(neurons), cna_lens.Layout((tiny.WIDTH,) * 2))
    last = cna_lens.NeuronScaling(circuit, -5.0, positions="last_prompt", name="last")
    assert choose(llama, [last], answer_tokens=0).kl_per_token == (0.0,)
    assert choose(llama, [last]).kl_per_token[0] > 0.01


def test_negative_prompts_without_answers_are_refused():
    model = tiny.bridge("llama")
    model.original_model.generation_config.eos_token_id = list(range(tiny.VOCABULARY))
    with pytest.raises(cna_lens.InputError, match="answers to the negative prompts have no tokens"):
        choose(model, [OneToken()])


def test_the_table_holds_every_candidate(llama, candidates):
    choice = choose(llama, candidates)
    table = choice.to_frame()
    assert list(table["method"]) == [method.name for method in candidates]
    assert list(table["score"]) == list(choice.scores)
    assert list(table["change"]) == [score - choice.unsteered for score in choice.scores]
    assert list(table["kl_per_token"]) == list(choice.kl_per_token)
    assert list(table.loc[table["chosen"], "method"]) == [choice.best.name]


@pytest.mark.parametrize("prefer", ["lowest", "highest"])
def test_among_equals_the_first_one_is_taken(llama, candidates, prefer):
    choice = choose(llama, candidates, lambda model, prompts: [1.0, 2.0], prefer=prefer)
    assert choice.best is candidates[0]
    assert choice.scores == (1.5,) * 4


def test_nothing_is_left_behind_if_the_metric_fails(llama, candidates):
    with torch.no_grad():
        before = llama(torch.tensor([VALIDATION[0]]))
    calls = []

    def fail_when_steered(model, prompts):
        if calls:
            raise KeyError
        calls.append(None)
        return [0.0, 0.0]

    with pytest.raises(KeyError):
        choose(llama, candidates, fail_when_steered)
    with torch.no_grad():
        assert torch.equal(llama(torch.tensor([VALIDATION[0]])), before)


def test_an_infinite_metric_has_an_infinite_mean(llama, candidates):
    assert choose(llama, candidates, lambda m, p: [1.0, -math.inf]).scores == (-math.inf,) * 4


@pytest.mark.usefixtures("without_type_checks")
def test_invalid_arguments_are_refused(llama, candidates):
    def chosen(methods=candidates, metric=openings, prompts=VALIDATION, negative=BENIGN, **options):
        return cna_lens.choose(llama, methods, metric, prompts, negative, **options)

    for arguments, message in (
        ({"methods": ()}, "candidates is empty"),
        ({"prompts": []}, "prompts is empty"),
        ({"negative": []}, "negative is empty"),
        ({"max_kl": -0.1}, r"max_kl is -0\.1, expected 0 or above"),
        ({"max_kl": math.nan}, "max_kl is nan"),
        ({"answer_tokens": -1}, "answer_tokens is -1"),
        ({"prefer": "best"}, "prefer is 'best', expected 'lowest' or 'highest'"),
        ({"metric": lambda m, p: [1.0]}, "1 numbers for 2 prompts"),
        ({"metric": lambda m, p: [1.0, None]}, r"1 numbers for 2 prompts \(without steering\)"),
        ({"metric": lambda m, p: [1.0, float("nan")]}, "it must give one for each"),
        ({"metric": lambda m, p: [math.inf, -math.inf]}, "infinite in both directions"),
        ({"metric": lambda m, p: [1.0, 2.0, 3.0]}, "3 numbers for 2 prompts"),
    ):
        with pytest.raises(cna_lens.InputError, match=message):
            chosen(**arguments)


def test_prompts_are_asked_in_the_template_that_is_asked_for(chat_model):
    (method, *_) = cna_lens.caa_candidates(chat_model, ["w5"], ["w6"], coefficient=0.5)
    prompts, negative = ["w14 w15", "w17"], ["w24 w25", "w27"]
    options = {"max_kl": math.inf, "answer_tokens": 3}

    def chosen(prompts, negative, **chat):
        return cna_lens.choose(chat_model, [method], openings, prompts, negative, **options, **chat)

    plain = chosen(prompts, negative, chat=False)
    ids = (encode(chat_model, each, chat=False).ids for each in (prompts, negative))
    assert plain == chosen(*ids)
    # Along the prompts' own tokens, those of the template do not count.
    options["answer_tokens"] = 0
    settings = cna_lens.ChatSettings(system="w3 w4 w5")
    known = kl_per_token(chat_model, lambda: method.at(chat_model), negative, chat=settings)
    (kl,) = chosen(prompts, negative, chat=settings).kl_per_token
    assert kl == pytest.approx(sum(known) / 2)
    options["answer_tokens"] = 3
    in_template = chosen(prompts, negative)
    assert in_template.scores != plain.scores
    assert in_template.kl_per_token != plain.kl_per_token
