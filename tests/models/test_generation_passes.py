"""Prompts of a batch are read in several passes, and answered as in one."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

import cna_lens
from cna_lens import Circuit, Neuron
from cna_lens.models.inside.projections import layout_of
from cna_lens.models.running import request
from cna_lens.models.running.batching import split_by_length
from cna_lens.models.trial.kv_cache import cached_tokens, joined, new_cache

PROMPTS = [
    [5, 6, 7, 8, 9],
    [5, 6, 7, 8, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39],
    [5, 6, 7, 8, 31, 32],
    [5, 6, 7, 8, *range(30, 55)],
]


@pytest.fixture
def reads(monkeypatch):
    """The rows of the first passes, where a pass costs little or much."""
    rows = []

    def split(lengths, *_, cost):
        rows.append(split_by_length(lengths, cost, at_most=1000))
        return rows[-1]

    def costing(cost):
        monkeypatch.setattr(request, "split_by_length", lambda *args: split(*args, cost=cost))
        return rows

    return costing


def answers(model, **options):
    return cna_lens.generate(model, PROMPTS, max_new_tokens=8, **options)


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("positions", ["all", "prompt", "last_prompt", "generated"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_answers_are_those_of_one_pass(models, family, positions, share_prefix, reads):
    model = models[family]
    circuit = Circuit(tuple(Neuron(i % 2, i) for i in range(8)), (1.0,) * 8, layout_of(model))
    unsteered = answers(model)
    with cna_lens.steer(model, circuit, -40.0, positions=positions, via="hooks"):
        rows = reads(cost=0)
        found = answers(model, share_prefix=share_prefix)
        reads(cost=10_000)
        assert found == answers(model, share_prefix=share_prefix) != unsteered
    assert list(map(len, rows)) == [4, 1]


def test_answers_keep_the_order_of_the_prompts(llama, reads):
    one_by_one = [answer for p in PROMPTS for answer in cna_lens.generate(llama, [p])]
    reads(cost=0)
    assert cna_lens.generate(llama, PROMPTS) == one_by_one
    assert cna_lens.generate(llama, PROMPTS[::-1]) == one_by_one[::-1]


def test_a_model_with_a_window_reads_all_in_one_pass(models, reads):
    rows = reads(cost=0)
    answers(models["gemma3"])
    assert not rows


def slow_split(lengths, pass_cost, at_most):
    """Try every way to cut the rows."""
    if not lengths:
        return 0
    return min(
        pass_cost + end * lengths[end - 1] + slow_split(lengths[end:], pass_cost, at_most)
        for end in range(1, len(lengths) + 1)
        if end == 1 or end * lengths[end - 1] <= at_most
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 60), st.integers(1, 90))
def test_no_other_split_computes_fewer_tokens(lengths, pass_cost, at_most):
    lengths = sorted(lengths)
    found = split_by_length(lengths, pass_cost, at_most)
    assert [row for part in found for row in lengths[part]] == lengths
    sizes = [(part.stop - part.start) * lengths[part.stop - 1] for part in found]
    assert all(
        size <= at_most or part.stop - part.start == 1
        for size, part in zip(sizes, found, strict=True)
    )
    cost = sum(sizes) + pass_cost * len(found)
    assert cost == slow_split(lengths, pass_cost, at_most)


def test_joined_caches_hold_padding_behind_the_prefix(llama):
    caches = []
    for ids in ([[5, 6, 7, 8]], [[5, 6, 9, 10, 11, 12], [5, 6, 13, 14, 15, 16]]):
        caches.append(new_cache(llama))
        llama.original_model(torch.tensor(ids), past_key_values=caches[-1])
    expected = [layer.keys.clone() for cache in caches for layer in cache.layers]
    (short, long), n_layers = caches, len(caches[0].layers)
    both = joined([short, long], at=2)
    assert cached_tokens(both) == 6
    for number, layer in enumerate(both.layers):
        of_short, of_long = expected[number], expected[n_layers + number]
        assert torch.equal(layer.keys[:1, :, :2], of_short[:, :, :2])
        assert torch.equal(layer.keys[:1, :, 4:], of_short[:, :, 2:])
        assert not layer.keys[:1, :, 2:4].any()
        assert torch.equal(layer.keys[1:], of_long)
        assert layer.values.shape == layer.keys.shape


def test_each_pass_names_its_prompts(llama, reads, monkeypatch):
    stated = []
    plain = request.prompt_lengths

    def noted(lengths, rows=None):
        stated.append((list(lengths), rows))
        return plain(lengths, rows)

    monkeypatch.setattr(request, "prompt_lengths", noted)
    reads(cost=0)
    answers(llama)
    assert stated[:4] == [([len(PROMPTS[row])], [row]) for row in (0, 2, 1, 3)]
