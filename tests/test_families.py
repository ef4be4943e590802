"""Every family of dense models, by the checks that docs/models.md is made of."""

from dataclasses import replace

import families
import pytest

import cna_lens
from experiments.models import checks, tiny_models
from experiments.models.tiny_models import NEGATIVE, POSITIVE

REACHABLE = [family for family in families.RUNNABLE if family.reachable]
REFUSED = [family for family in families.RUNNABLE if not family.reachable]


@pytest.mark.parametrize("check", checks.CHECKS)
@pytest.mark.parametrize("family", REACHABLE, ids=str)
def test_a_family_is_read_and_steered_as_the_plain_model_computes(family, check):
    outcome = families.found(family)
    assert outcome.refused is None
    assert check not in outcome.failures, outcome.failures[check]


@pytest.mark.parametrize("family", REFUSED, ids=str)
def test_a_family_whose_neurons_have_no_hook_point_is_refused(family):
    assert "has no hook point blocks.0.mlp.hook_post" in families.found(family).refused


def by_name(name):
    return next(family for family in families.RUNNABLE if family.name == name)


def test_the_layers_of_a_model_may_have_different_widths_or_none():
    assert families.found(by_name("Llama, pruned")).widths == (24, 0, 40)
    assert families.found(by_name("Gemma 4")).widths == (24, 24, 48, 48)


def test_a_layer_without_an_mlp_is_named_where_a_circuit_should_come_from_it():
    model = tiny_models.tiny_model(by_name("Llama, pruned")).model

    def find(*layers):
        return cna_lens.find_circuit(
            model, POSITIVE, NEGATIVE, k=1, layers=layers, universal=None, progress=False
        )

    with pytest.raises(
        cna_lens.InputError, match=r"layers is \[1\], where the model has no MLP.*are \[0, 2\]"
    ):
        find(1)
    assert find(1, 2).neurons[0].layer == 2


@pytest.fixture(scope="module")
def llama():
    return tiny_models.tiny_model(by_name("Llama"))


def other_plain_model(tiny, change):
    """The same bridge beside a plain model that computes something else."""
    other = tiny_models.random_model(tiny.family)
    other.load_state_dict(tiny.plain.state_dict())
    change(other.model.layers)
    return replace(tiny, plain=other)


@pytest.mark.parametrize(
    ("check", "projection"),
    [
        ("hook", "up_proj"),
        ("circuit", "up_proj"),
        ("steering", "down_proj"),
        ("batches", "up_proj"),
    ],
)
def test_each_check_fails_where_the_plain_model_computes_something_else(llama, check, projection):
    def change(layers):
        getattr(layers[0].mlp, projection).weight.data *= 1.01

    with pytest.raises(AssertionError):
        checks.CHECKS[check](other_plain_model(llama, change))


def test_the_checks_of_answers_and_widths_fail_too(llama):
    def negate(layers):
        for layer in layers:
            layer.mlp.down_proj.weight.data *= -1

    with pytest.raises(AssertionError):
        checks.answers(other_plain_model(llama, negate))
    with pytest.raises(AssertionError):
        checks.widths(replace(llama, family=by_name("Llama, pruned")))
