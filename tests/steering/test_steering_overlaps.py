"""Steering by weights where contexts overlap, where others change weights, and under autocast."""

import threading
from contextlib import ExitStack, suppress

import pytest
import reference
import tiny
import torch
from hypothesis import given, settings, strategies as st

import cna_lens
from cna_lens import Circuit, Layout, Neuron

LAYOUT = Layout((tiny.WIDTH,) * 2)
CIRCUIT = Circuit((Neuron(1, 3), Neuron(0, 2), Neuron(1, 20)), (3.0, 2.0, 1.0), LAYOUT)
OTHER = Circuit((Neuron(1, 3), Neuron(0, 7)), (2.0, 1.0), LAYOUT)
DISJOINT = Circuit((Neuron(0, 11), Neuron(1, 4)), (2.0, 1.0), LAYOUT)
IDS = torch.tensor([[5, 6, 7]])


def by_weights(model, circuit, multiplier):
    return cna_lens.steer(model, circuit, multiplier, via="weights")


def logits(model):
    with torch.no_grad():
        return model(IDS)


@pytest.fixture
def fresh():
    return reference.settled(tiny.bridge("llama"))


@pytest.fixture
def weight(fresh):
    return fresh.blocks[1].mlp.out.original_component.weight


@pytest.mark.parametrize("inner", [CIRCUIT, OTHER, DISJOINT], ids=["same", "overlap", "disjoint"])
def test_contexts_that_end_in_the_order_they_began_leave_the_weights_as_they_were(fresh, inner):
    before = reference.weights(fresh)
    with by_weights(fresh, inner, 3.0):
        alone = reference.weights(fresh)
    first, second = ExitStack(), ExitStack()
    first.enter_context(by_weights(fresh, CIRCUIT, 0.0))
    second.enter_context(by_weights(fresh, inner, 3.0))
    first.close()
    assert reference.same_bits(alone, reference.weights(fresh))
    second.close()
    assert reference.same_bits(before, reference.weights(fresh))


steps = st.lists(
    st.tuples(st.sampled_from([CIRCUIT, OTHER, DISJOINT]), st.sampled_from([0.0, 0.3, -2.0, 7.0])),
    min_size=1,
    max_size=4,
)


@settings(max_examples=40, deadline=None)
@given(steps, st.randoms(use_true_random=False))
def test_in_any_order_the_open_contexts_apply_as_if_they_alone_had_begun(models, opened, random):
    model = models["llama"]
    before = reference.weights(model)
    stacks = []
    for circuit, multiplier in opened:
        stacks.append(ExitStack())
        stacks[-1].enter_context(by_weights(model, circuit, multiplier))
    left = list(range(len(opened)))
    while left:
        ends = random.choice(left)
        stacks[ends].close()
        left.remove(ends)
        found = reference.weights(model)
        expected = {name: weight.clone() for name, weight in before.items()}
        for place in left:
            circuit, multiplier = opened[place]
            for layer, index in circuit:
                name = next(n for n in expected if f"layers.{layer}." in n and "down_proj" in n)
                expected[name][:, index] *= multiplier
        assert reference.same_bits(expected, found)


def test_contexts_of_two_threads_restore_the_weights_in_either_order(fresh):
    before = reference.weights(fresh)
    both_are_open, first_has_ended = threading.Barrier(2), threading.Event()

    def first():
        with by_weights(fresh, CIRCUIT, 0.0):
            both_are_open.wait(timeout=30)
        first_has_ended.set()

    def second():
        with by_weights(fresh, OTHER, 3.0):
            both_are_open.wait(timeout=30)
            first_has_ended.wait(timeout=30)

    threads = [threading.Thread(target=run) for run in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reference.same_bits(before, reference.weights(fresh))


def test_two_bridges_with_the_same_weights_know_of_each_others_scalings():
    both = tiny.hugging_face("llama"), tiny.hugging_face("llama", seed=1)
    for mine, other in zip(*map(tiny.down_projections, both), strict=True):
        other.weight = mine.weight
    one, two = (reference.settled(tiny.boot(hf)) for hf in both)
    before = reference.weights(one)
    first, second = ExitStack(), ExitStack()
    first.enter_context(by_weights(one, CIRCUIT, 0.0))
    with pytest.raises(cna_lens.InputError, match="scales Neuron"):
        second.enter_context(cna_lens.steer(two, OTHER, values=[1.0, 2.0]))
    second.enter_context(by_weights(two, OTHER, 3.0))
    first.close()
    second.close()
    assert reference.same_bits(before, reference.weights(one))


def test_a_change_made_meanwhile_to_other_neurons_stays(fresh, weight):
    with by_weights(fresh, CIRCUIT, 0.0), torch.no_grad():
        weight[:, 5] = 4.0
    assert (weight[:, 5] == 4).all()


def test_a_change_made_meanwhile_to_the_same_neurons_stays_and_is_told(fresh, weight):
    before = reference.weights(fresh)
    name = next(name for name, each in fresh.named_parameters() if each is weight)
    with (
        pytest.warns(cna_lens.CnaLensWarning, match=r"weights of 1 neurons, Neuron.*index=20"),
        by_weights(fresh, CIRCUIT, 0.5),
        torch.no_grad(),
    ):
        weight[0, 20] = 4.0
    half = before[name][:, 20] * 0.5
    assert weight[0, 20] == 4
    assert torch.equal(weight[1:, 20], half[1:])
    before[name][:, 20] = weight[:, 20].detach()
    assert reference.same_bits(before, reference.weights(fresh))


@pytest.mark.parametrize("when", ["before the inner one", "in the inner one"])
def test_a_change_under_nested_contexts_is_told_once_and_stays(fresh, weight, when):
    def change():
        with torch.no_grad():
            weight[:, 3] = 4.0

    def nested():
        with by_weights(fresh, CIRCUIT, 0.5):
            if when == "before the inner one":
                change()
            with by_weights(fresh, OTHER, 0.25):
                assert when != "before the inner one" or (weight[:, 3] == 1).all()
                if when == "in the inner one":
                    change()
            assert (weight[:, 3] == 4).all()

    with pytest.warns(cna_lens.CnaLensWarning, match="something else changed") as told:
        nested()
    assert (weight[:, 3] == 4).all()
    assert len(told) == 1


@pytest.mark.parametrize("convert", ["half", "data", "overwrite"])
def test_a_model_converted_meanwhile_has_its_converted_weights_afterwards(fresh, convert):
    other = tiny.bridge("llama").original_model.to(torch.bfloat16)
    with by_weights(fresh, CIRCUIT, 0.3):
        if convert == "half":
            fresh.original_model.to(torch.bfloat16)
        elif convert == "data":
            for parameter in fresh.original_model.parameters():
                parameter.data = parameter.data.to(torch.bfloat16)
        else:
            torch.__future__.set_overwrite_module_params_on_conversion(True)
            try:
                fresh.original_model.to(torch.bfloat16)
            finally:
                torch.__future__.set_overwrite_module_params_on_conversion(False)
    assert reference.same_bits(reference.weights(other), reference.weights(fresh.original_model))


def test_a_matrix_put_in_place_meanwhile_stays_and_is_told(fresh, weight):
    projection = fresh.blocks[1].mlp.out.original_component
    old = weight.detach().clone()
    with (
        pytest.warns(cna_lens.CnaLensWarning, match="weights of 2 neurons"),
        by_weights(fresh, CIRCUIT, 0.3),
    ):
        projection.weight = torch.nn.Parameter(torch.ones_like(weight))
    assert (projection.weight == 1).all()
    assert torch.equal(weight, old)


def test_a_second_context_on_a_model_converted_meanwhile_is_refused(fresh):
    before = reference.weights(fresh)
    with by_weights(fresh, CIRCUIT, 0.3):
        fresh.original_model.double()
        with (
            pytest.raises(cna_lens.ModelError, match=r"moved from torch\.float32"),
            by_weights(fresh, OTHER, 2.0),
        ):
            pass
        fresh.original_model.float()
    assert reference.same_bits(before, reference.weights(fresh))


@pytest.mark.parametrize("at", range(12))
def test_an_interrupt_at_any_step_of_the_change_restores_the_weights(fresh, monkeypatch, at):
    before = reference.weights(fresh)
    real, calls = torch.isin, []

    def interrupting(*args):
        calls.append(args)
        if len(calls) == at + 1:
            raise KeyboardInterrupt
        return real(*args)

    with by_weights(fresh, OTHER, 0.3):
        outer = reference.weights(fresh)
        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            patched.setattr(torch, "isin", interrupting)
            with by_weights(fresh, CIRCUIT, 0.0):
                calls += [None] * 100
        assert reference.same_bits(outer, reference.weights(fresh))
    assert reference.same_bits(before, reference.weights(fresh))


def test_weights_made_in_inference_mode_are_steered_by_hooks():
    with torch.inference_mode():
        model = tiny.bridge("llama")
    with cna_lens.steer(model, CIRCUIT, 0.0) as steering, torch.inference_mode():
        model(IDS)
    assert steering.via == "hooks"


AUTOCAST = {"device_type": "cpu", "dtype": torch.bfloat16}
cached = pytest.mark.parametrize("cache", [True, False], ids=["cache", "no cache"])


@cached
def test_weights_steer_inside_autocast_as_hooks_do(fresh, cache):
    with torch.autocast(**AUTOCAST, cache_enabled=cache):
        before = fresh(IDS)
        with cna_lens.steer(fresh, CIRCUIT, 0.0, via="hooks"):
            expected = fresh(IDS)
        with by_weights(fresh, CIRCUIT, 0.0):
            found = fresh(IDS)
        after = fresh(IDS)
    assert torch.equal(found, expected)
    assert torch.equal(after, before)
    assert not torch.equal(found, before)


@cached
def test_autocast_that_outlives_the_context_or_begins_within_it_sees_the_weights(fresh, cache):
    with torch.autocast(**AUTOCAST, cache_enabled=cache):
        before = fresh(IDS)
        with cna_lens.steer(fresh, CIRCUIT, 2.0, via="hooks"):
            expected = fresh(IDS)
    steering, casting = ExitStack(), ExitStack()
    steering.enter_context(by_weights(fresh, CIRCUIT, 2.0))
    casting.enter_context(torch.autocast(**AUTOCAST, cache_enabled=cache))
    assert torch.equal(fresh(IDS), expected)
    with torch.autocast(**AUTOCAST, cache_enabled=cache), by_weights(fresh, DISJOINT, 0.0):
        assert not torch.equal(fresh(IDS), expected)
    assert torch.equal(fresh(IDS), expected)
    steering.close()
    assert torch.equal(fresh(IDS), before)
    casting.close()


def test_autocast_in_one_thread_sees_weights_that_another_thread_scales(fresh):
    with torch.autocast(**AUTOCAST):
        before = fresh(IDS)
        stack = ExitStack()
        for step in (lambda: stack.enter_context(by_weights(fresh, CIRCUIT, 0.0)), stack.close):
            thread = threading.Thread(target=step)
            thread.start()
            thread.join()
            assert torch.equal(fresh(IDS), before) == (step == stack.close)
