"""Every family of dense models, by the checks behind docs/models.md."""

import copy
from dataclasses import replace

import families
import pytest
import runs
import torch

import cna_lens
from experiments.families import checks, tiny_models
from experiments.families.tiny_models import NEGATIVE, POSITIVE

REACHABLE = [family for family in families.RUNNABLE if family.reachable]
REFUSED = [family for family in families.RUNNABLE if not family.reachable]
USUAL = ("GPT-2", "Llama", "Qwen2", "Gemma 3")


@pytest.mark.parametrize("check", checks.CHECKS)
@pytest.mark.parametrize("family", runs.every(REACHABLE, quick=USUAL), ids=str)
def test_a_family_is_read_and_steered_like_the_plain_model(family, check):
    outcome = families.found(family)
    if family.name in families.MAY_NOT_RUN and outcome.refused:
        assert "TransformerLens cannot run" in outcome.refused
        return
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


def test_a_layer_without_an_mlp_is_named_if_a_circuit_is_to_come_from_it():
    model = tiny_models.tiny_model(by_name("Llama, pruned")).model

    def find(*layers):
        return cna_lens.find_circuit(
            model, POSITIVE, NEGATIVE, k=1, layers=layers, universal=None, progress=False
        )

    with pytest.raises(
        cna_lens.InputError,
        match=r"layers is \[1\], but these layers have no MLP.*an MLP: \[0, 2\]",
    ):
        find(1)
    assert find(1, 2).neurons[0].layer == 2


@pytest.fixture(scope="module")
def llama():
    return tiny_models.tiny_model(by_name("Llama"))


def beside_another_plain_model(tiny, change):
    other = copy.deepcopy(tiny.plain)
    change(other.model.layers)
    return replace(tiny, plain=other)


def louder(layers):
    layers[0].mlp.up_proj.weight.data *= 1.01


def writing_more(layers):
    layers[0].mlp.down_proj.weight.data *= 1.01


def writing_the_opposite(layers):
    for layer in layers:
        layer.mlp.down_proj.weight.data *= -1


def wider(layers):
    layers[0].mlp.down_proj = torch.nn.Linear(30, 16)


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("hook", louder),
        ("circuit", louder),
        ("steering", writing_more),
        ("batches", louder),
        ("widths", wider),
        ("answers", writing_the_opposite),
    ],
)
def test_each_check_fails_against_another_plain_model(llama, check, change):
    with pytest.raises(AssertionError):
        checks.CHECKS[check](beside_another_plain_model(llama, change))
