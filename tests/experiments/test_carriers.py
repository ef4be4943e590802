"""Parts of a model set back to another's weights, and neurons that an adapter changed most."""

import pytest
import tiny
import torch

import cna_lens
from cna_lens import Circuit, Layout, Neuron
from experiments.audit.weight_edits import edited, weights_of
from experiments.demo import carriers

LAYOUT = Layout((24, 24))


@pytest.fixture(scope="module")
def two():
    return tiny.bridge("llama", seed=1), tiny.bridge("llama", seed=2)


def changed(before, model):
    """The weights that differ, each with the places that do."""
    return {
        name: (weight != before[name]).nonzero()
        for name, weight in weights_of(model).items()
        if not torch.equal(weight, before[name])
    }


def copied(model):
    return {name: weight.detach().clone() for name, weight in weights_of(model).items()}


def test_a_neurons_change_is_that_of_its_three_projections(two):
    own, others = map(weights_of, two)
    found = carriers.changes(own, others)
    for layer, index in ((0, 3), (1, 20)):
        mlp = f"model.layers.{layer}.mlp."
        parts = [own[mlp + each] - others[mlp + each] for each in PROJECTIONS]
        gate, up, down = parts[0][index], parts[1][index], parts[2][:, index]
        expected = torch.cat([gate, up, down]).norm().item()
        assert found[LAYOUT.flat(Neuron(layer, index))].item() == pytest.approx(expected, rel=1e-6)


PROJECTIONS = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")


def test_the_neurons_of_a_circuit_and_no_others_are_set_back(two):
    model, base = two
    circuit = Circuit((Neuron(1, 4), Neuron(1, 9)), (1.0, 1.0), LAYOUT)
    before, others = copied(model), weights_of(base)
    with edited(model, carriers.neurons_of(circuit, others)):
        places = changed(before, model)
        assert set(places) == {f"model.layers.1.mlp.{each}" for each in PROJECTIONS}
        for name, where in places.items():
            assert set(where[:, 1 if "down" in name else 0].tolist()) == {4, 9}
        for name in places:
            at = (slice(None), [4, 9]) if "down" in name else ([4, 9],)
            assert torch.equal(weights_of(model)[name][at], others[name][at])
    assert not changed(before, model)


def test_parts_are_set_back_and_come_again(two):
    model, base = two
    before, others = copied(model), weights_of(base)
    ways = carriers.set_back(model, base, LAYOUT)
    for name, parts in (
        ("nothing", ()),
        ("attention set back", (".self_attn.",)),
        ("MLPs set back", (".mlp.",)),
        ("all weights set back", ("",)),
    ):
        with ways[name]():
            differing = {each for each in before if not torch.equal(before[each], others[each])}
            expected = {each for each in differing if any(part in each for part in parts)}
            assert set(changed(before, model)) == expected
            assert bool(expected) == bool(parts)
        assert not changed(before, model)
    most = carriers.changes(before, others).argmax().item()
    layer, index = divmod(most, 24)
    with ways["10% of MLP neurons set back"]():
        places = changed(before, model)
        rows = {tuple(each) for each in places[f"model.layers.{layer}.mlp.up_proj.weight"].tolist()}
        assert index in {row for row, _ in rows}
        n = sum(len(where[:, 0].unique()) for name, where in places.items() if "up_proj" in name)
        assert n == 5  # a tenth of 48


def test_all_neurons_have_their_means_at_the_last_token_alone(two, monkeypatch):
    model, _ = two
    monkeypatch.setattr(carriers, "MASKED", (0.1, 0.2))
    means = cna_lens.collect(model, [[7], [9, 3]])
    scores = cna_lens.score_neurons(model, [[5, 6]], [[7], [9, 3]])
    ways = carriers.ablated(model, means, scores)
    whole, *first = ways
    with ways[whole]():
        _, cache = model.run_with_cache(torch.tensor([[5, 6, 8]]))
    found = cache[cna_lens.models.hook_name(0)][0]
    torch.testing.assert_close(found[-1].double(), means.mean[:24], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(found[0].double(), means.mean[:24])
    silent = []
    for name in first:
        with ways[name]():
            columns = [
                (weights_of(model)[f"model.layers.{layer}.mlp.down_proj.weight"] == 0).all(0)
                for layer in (0, 1)
            ]
        silent.append(torch.cat(columns).nonzero().flatten().tolist())
    by_score = scores.values.argsort(descending=True).tolist()
    assert silent == [sorted(by_score[:5]), sorted(by_score[:10])]
