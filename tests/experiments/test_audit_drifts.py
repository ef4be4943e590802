"""experiments.audit.drifts: rounding and pruning by hand; sets of variants and their order."""

import pytest
import tiny
import torch
from audit_bench import tiny_bench

from experiments.audit import attacks, drifts
from experiments.audit.drifts.compressed import activation_aware, input_sizes, pruned, to_nearest
from experiments.audit.sets import VariantSet, variants_of
from experiments.audit.variants import Variant, kinds_in_turn


def drawn(rows, columns, seed=0):
    return torch.randn((rows, columns), generator=torch.Generator().manual_seed(seed))


def test_levels_of_four_bits_are_those_computed_by_hand():
    weight = torch.tensor([[7.0, -3.4, 0.6, 0.4, 1.4, 0.0]])
    # Groups of four: a step of 1, and of 0.2.
    rounded = to_nearest(weight, group=4)
    torch.testing.assert_close(rounded, torch.tensor([[7.0, -3.0, 1.0, 0.0, 1.4, 0.0]]))
    with_zero = to_nearest(torch.tensor([[1.0, 2.0, 14.4, 16.0]]), group=4, zero_point=True)
    torch.testing.assert_close(with_zero, torch.tensor([[1.0, 2.0, 14.0, 16.0]]))


@pytest.mark.parametrize("zero_point", [False, True])
def test_no_weight_moves_by_more_than_half_a_step_and_the_largest_stay(zero_point):
    weight = drawn(5, 150)
    rounded = to_nearest(weight, zero_point=zero_point)
    for old, new in zip(weight.split(64, 1), rounded.split(64, 1), strict=True):
        span = old.amax(1) - old.amin(1) if zero_point else 2 * old.abs().amax(1)
        step = span / (15 if zero_point else 14)
        assert ((old - new).abs() <= step[:, None] / 2 + 1e-6).all()
        largest = old.amax(1) if zero_point else old.abs().amax(1)
        found = new.amax(1) if zero_point else new.abs().amax(1)
        torch.testing.assert_close(found, largest)
        assert all(len(row.unique()) <= 16 for row in new)
    assert not rounded.equal(weight)
    assert to_nearest(torch.zeros(2, 64)).equal(torch.zeros(2, 64))


def test_weights_of_large_inputs_are_rounded_least():
    weight = drawn(64, 128)
    sizes = torch.ones(128)
    sizes[::8] = 100.0
    plain = (to_nearest(weight) - weight).abs()[:, ::8].mean()
    aware = (activation_aware(weight, sizes) - weight).abs()[:, ::8].mean()
    assert aware < 0.7 * plain
    same = activation_aware(weight, torch.full((128,), 3.0))
    torch.testing.assert_close(same, to_nearest(weight))


def test_exactly_a_tenth_is_pruned_and_it_is_the_smallest():
    weight = drawn(20, 30)
    found = pruned(weight, 0.1)
    assert int((found == 0).sum()) == 60
    kept = found != 0
    assert found[kept].equal(weight[kept])
    assert weight[kept].abs().min() > weight[~kept].abs().max()
    by_rows = pruned(weight, 0.1, by_rows=torch.ones(30))
    assert (by_rows == 0).sum(1).tolist() == [3] * 20


def test_inputs_count_when_rows_are_pruned():
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    inputs = torch.tensor([1.0, 0.1, 1.0, 1.0])
    # Products are 1, .2, 3, 4 and 4, .3, 2, 1.
    assert pruned(weight, 0.25, by_rows=inputs).tolist() == [[1, 0, 3, 4], [4, 0, 2, 1]]
    assert pruned(weight, 0.5, by_rows=inputs).tolist() == [[0, 0, 3, 4], [4, 0, 2, 0]]


def test_input_sizes_are_means_over_all_tokens(monkeypatch):
    model = tiny.bridge("llama", chat=True)
    monkeypatch.setattr(
        "experiments.audit.drifts.compressed.diverse_prompts", lambda: ("w5 w6", "w7")
    )
    module = model.original_model

    def n_hooks():
        return sum(len(each._forward_pre_hooks) for each in module.modules())

    before = n_hooks()
    found = input_sizes(model)
    assert n_hooks() == before
    kinds = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.split(".")[-2] for name in found} == kinds
    assert len(found) == 14
    neurons = []
    for ids in (
        [10, 11, 12, 13, 14, 15, 3, 62, 5, 6, 2, 3, 63],
        [10, 11, 12, 13, 14, 15, 3, 62, 7, 2, 3, 63],
    ):
        with torch.no_grad():
            _, cache = model.run_with_cache(torch.tensor([ids]))
        neurons.append(cache["blocks.1.mlp.hook_post"][0].abs())
    torch.testing.assert_close(
        found["model.layers.1.mlp.down_proj.weight"], torch.cat(neurons).mean(0)
    )


def test_compressed_models_leave_embeddings_alone(tmp_path):
    bench = tiny_bench(tiny.bridge("llama", chat=True), tmp_path)
    before = bench.model.original_model.model.embed_tokens.weight.clone()
    for variant in drifts.added():
        if variant.kind not in ("4 bits", "pruning"):
            continue
        with variant.enter(bench) as model:
            assert model.original_model.model.embed_tokens.weight.equal(before)
            with torch.no_grad():
                changed = model(torch.tensor([[5, 6]]))
        with torch.no_grad():
            assert not changed.equal(bench.model(torch.tensor([[5, 6]])))


def variant(name, kind):
    return Variant(name, kind, True, lambda bench: None)


def test_kinds_take_turns():
    given = [
        variant(f"{kind}{i}", kind) for kind in "abc" for i in range({"a": 3, "b": 1, "c": 2}[kind])
    ]
    assert [each.name for each in kinds_in_turn(given)] == ["a0", "b0", "c0", "a1", "c1", "a2"]
    assert [each.name for each in kinds_in_turn(given, 1)] == ["a0", "b0", "c0"]


def test_each_set_begins_with_the_reference_and_all_is_their_union():
    sets = {which: [each.name for each in variants_of(which)] for which in VariantSet}
    assert all(names[0] == "untouched" for names in sets.values())
    assert all(len(set(names)) == len(names) for names in sets.values())
    parts = [
        set(sets[which]) for which in (VariantSet.ORIGINAL, VariantSet.NEW, VariantSet.SERVING)
    ]
    assert set(sets[VariantSet.ALL]) == set.union(*parts)
    assert set.intersection(*parts) == {"untouched"}
    serving = variants_of(VariantSet.SERVING)
    assert [each.side for each in serving[1:]] == ["serving"] * (len(serving) - 1)
    assert {each.tampered for each in serving[1:]} == {True, False}
    # The first study's variants are the same as ever.
    assert len(sets[VariantSet.ORIGINAL]) == 68 + 67
    few = variants_of(VariantSet.NEW, 1)
    assert len(few) == 1 + len({each.kind for each in few[1:]})


def test_new_attacks_have_the_kinds_and_strengths_that_were_asked_for():
    kinds = {}
    for each in attacks.added():
        kinds.setdefault(each.kind, []).append(each.name)
    assert {kind: len(names) for kind, names in kinds.items() if "set back" in kind} == {
        "weights set back by gradient": 5,
        "weights set back by signed gradient": 5,
        "weights set back by size": 5,
        "weights set back at random": 10,
    }
    for kind in ("several directions", "direction without concepts", "direction in some layers"):
        assert {name.split()[-1] for name in kinds[kind]} == {"hooks", "weights"}, kind
    assert all(each.tampered and each.side == "model" for each in attacks.added())
