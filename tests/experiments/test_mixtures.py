"""Every family of models with experts, by the checks behind docs/models.md."""

import copy
from dataclasses import replace

import families
import pytest
import tiny_moe
import torch

from experiments.families import mixture_checks


@pytest.mark.parametrize("check", mixture_checks.CHECKS)
@pytest.mark.parametrize("family", tiny_moe.FAMILIES)
def test_a_family_is_read_and_steered_like_the_slow_definition(family, check):
    outcome = families.found_of_mixture(tiny_moe.BY_TYPE[family])
    assert outcome.refused is None
    assert check not in outcome.failures, outcome.failures[check]


def test_experts_that_cannot_be_reached_are_refused_by_name():
    refused = families.found_of_mixture(tiny_moe.BY_TYPE["llama4_text"]).refused
    assert "layer 1 of tiny-llama4_text is a sparse mixture of experts" in refused


def louder(mlp):
    mlp.experts.gate_up_proj.data *= 1.01


def writing_more(mlp):
    mlp.experts.down_proj.data *= 1.01


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("neurons", louder),
        ("circuit", louder),
        ("steering", writing_more),
        ("batches", louder),
    ],
)
def test_each_check_fails_against_another_plain_model(check, change):
    tiny = mixture_checks.TinyMixture.of(tiny_moe.BY_TYPE["mixtral"])
    other = copy.deepcopy(tiny.plain)
    change(other.model.layers[2].mlp)
    with pytest.raises(AssertionError):
        mixture_checks.CHECKS[check](replace(tiny, plain=other))


def test_a_change_by_hook_points_is_noticed(monkeypatch):
    tiny = mixture_checks.TinyMixture.of(tiny_moe.BY_TYPE["olmoe"])
    norm = tiny.model.original_model.model.norm.original_component
    own = mixture_checks.cna_lens.expert_hooks

    def disturbing(model):
        with torch.no_grad():
            norm.weight.mul_(1.0001)
        return own(model)

    monkeypatch.setattr(mixture_checks.cna_lens, "expert_hooks", disturbing)
    with pytest.raises(AssertionError, match="other logits with hook points"):
        mixture_checks.CHECKS["unsteered"](tiny)
