"""Lineage: numbers by hand, copies that are of the family, and models that are not."""

import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import tiny
import torch
from canary_models import CANARIES, by_hand, measurement, reference, refusing
from scipy.stats import norm

import cna_lens
from cna_lens import audit
from cna_lens.audit.checks.lineage import (
    Agreement,
    _turned,
    activations,
    agreements,
    directions,
    output_weights,
    writing,
)
from cna_lens.audit.measuring.measurement import measure
from cna_lens.audit.measuring.probes import Probes
from cna_lens.audit.measuring.reference import Axes
from cna_lens.audit.measuring.weights import Matrices
from cna_lens.report import read_results


def by_name(found):
    return {each.name: each for each in found.lineage}


def rotation(size, seed):
    drawn = torch.randn((size, size), generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(drawn.double()).Q


def test_what_neurons_write_is_counted_without_order_length_and_sign():
    # Two of three neurons write along the first axis: 2/3 - 1/2 and 1/3 - 1/2.
    wrote = torch.tensor([[1.0, 0.0, -3.0], [0.0, 2.0, 0.0]])
    expected = torch.diag(torch.tensor([1 / 6, -1 / 6]))
    (found,) = writing([wrote], torch.eye(2))
    torch.testing.assert_close(found.float(), expected)
    (other,) = writing([wrote[:, [2, 0, 1]] * torch.tensor([-5.0, 1.0, 0.1])], torch.eye(2))
    torch.testing.assert_close(other, found)


def test_probes_that_are_not_orthogonal_tell_the_same():
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn((4, 50), generator=generator)
    slanted = torch.randn((3, 4), generator=generator)
    slanted = slanted / slanted.norm(dim=1, keepdim=True)
    straight = torch.linalg.qr(slanted.t()).Q.t()
    one, other = (writing([each @ columns], each)[0] for each in (slanted, straight))
    # They span the same space, in which both have a basis of their own.
    torch.testing.assert_close(
        torch.linalg.eigvalsh(one), torch.linalg.eigvalsh(other), atol=1e-6, rtol=0
    )


def test_layers_without_neurons_are_left_out():
    assert len(writing([torch.ones(2, 3), torch.ones(2, 0), torch.eye(2)], torch.eye(2))) == 2


def test_output_weights_agree_as_their_slow_definition_says(guarded, fingerprint):
    other = refusing(seed=1)
    expected = []
    for model in (guarded, other):
        layers = []
        probes = torch.linalg.svd(fingerprint.reference.probes.directions.double())
        basis = probes.Vh[: len(probes.S)]
        for down in tiny.down_projections(model.original_model):
            total = -torch.eye(len(basis), dtype=torch.float64) / len(basis)
            for column in down.weight.detach().double().t():
                along = basis @ column
                total += torch.outer(along, along) / along.square().sum() / down.weight.shape[1]
            layers.append(total)
        expected.append(torch.stack(layers).flatten())
    slow = float(torch.cosine_similarity(*expected, dim=0))
    found = output_weights(fingerprint.reference, Matrices.of(other, fingerprint.reference.layout))
    assert found.statistic == pytest.approx(slow, abs=1e-5)
    assert abs(found.statistic) < 0.3
    assert output_weights(fingerprint.reference, None) is None
    without = replace(fingerprint.reference, probes=None)
    assert output_weights(without, Matrices.of(other, without.layout)) is None


@pytest.mark.parametrize("degrees", [10, 60, 90, 150])
def test_the_p_value_of_two_probes_is_the_share_of_the_half_circle(degrees):
    # A rotation by t turns a symmetric 2 x 2 matrix without trace by 2 t.
    half = math.radians(degrees) / 2
    turn = torch.tensor([[math.cos(half), -math.sin(half)], [math.sin(half), math.cos(half)]])
    one = torch.diag(torch.tensor([1.0, -1.0]))
    p = _turned(one[None].double(), (turn @ one @ turn.t())[None].double())
    assert p == pytest.approx(degrees / 180, abs=0.03)


def test_directions_are_compared_layer_by_layer():
    found = by_hand()
    turned = torch.tensor([[1.0, math.sqrt(3)], [1.0, math.sqrt(3)], [0, 0], [0, 0]])
    # Both layers of each model have one direction: the variance is that of one layer, 1/2.
    agreed = directions(reference(found), by_hand(stream=torch.stack([turned, turned])))
    assert agreed.statistic == pytest.approx(0.5)
    assert agreed.p_value == pytest.approx(norm.sf(0.5 / math.sqrt(0.5)))
    assert not agreed.shows_kinship


def test_the_variance_of_directions_is_that_of_random_rotations():
    generator = torch.Generator().manual_seed(1)
    before, after = (torch.randn((4, 12), generator=generator).double() for _ in range(2))
    after[1:] += 2 * after[0]
    before, after = (each / each.norm(dim=1, keepdim=True) for each in (before, after))
    drawn = torch.tensor(
        [float((before * (after @ rotation(12, seed))).sum()) / 4 for seed in range(3000)]
    )
    apart = torch.zeros(4, 4, 12)
    apart[:, :2] = after[:, None]
    now = measurement(torch.zeros(4, 4), torch.zeros(4, 4, 12), apart, [0.0] * 4, 2)
    stream = Axes(before.float(), torch.ones(4), torch.zeros(4, 4))
    agreed = directions(replace(reference(by_hand()), stream=stream), now)
    assert agreed.statistic == pytest.approx(float((before * after).sum()) / 4, abs=1e-6)
    assert agreed.p_value == pytest.approx(norm.sf(agreed.statistic / float(drawn.std())), rel=0.1)


def test_activations_are_compared_within_layers():
    neurons = torch.zeros(4, 8)
    neurons[2:] = torch.tensor([1.0, 2.0, 3.0, 6.0, 10.0, 20.0, 30.0, 60.0])
    before = measured(neurons)
    scaled = neurons * torch.tensor([2.0] * 4 + [7.0] * 4) + 5
    taken = reference(before, chosen=range(4), control=range(4, 8))
    # Neither the level nor the scale of a layer counts.
    agreed = activations(taken, measured(scaled))
    assert agreed.statistic == pytest.approx(1.0)
    assert agreed.p_value == pytest.approx(norm.sf(1 / math.sqrt((1 / 3 + 1 / 3) / 4)))
    # Nor do harmful canaries: what they do is what tampering changes.
    scaled[:2] = torch.arange(16).reshape(2, 8) ** 2
    assert activations(taken, measured(scaled)).statistic == pytest.approx(1.0)
    # By hand: (-2, -1, 0, 3) and (3, 0, -1, -2) have -12 / 14 in one layer, 1 in the other.
    turned = neurons[:, [3, 2, 1, 0, 4, 5, 6, 7]]
    assert activations(taken, measured(turned)).statistic == pytest.approx((-12 / 14 + 1) / 2)
    few = reference(before, chosen=(0,), control=(4,))
    assert activations(few, measured(neurons)) is None


def measured(neurons):
    found = by_hand()
    layout = cna_lens.Layout((4, 4))
    return replace(found, neurons=neurons, layout=layout)


def test_the_same_model_agrees_wholly(guarded, fingerprint):
    for access, n in (("weights", 3), ("activations", 2)):
        found = audit.attest(guarded, fingerprint, CANARIES, access=access)
        assert len(found.lineage) == n
        assert all(each.shown for each in found.lineage)
        assert [each.statistic for each in found.lineage] == pytest.approx([1.0] * n, abs=1e-4)


@pytest.mark.parametrize(
    ("statistic", "p_value", "shown"),
    [(0.3, 0.01, True), (0.299, 0.0, False), (1.0, 0.011, False)],
)
def test_an_agreement_must_be_large_and_beyond_chance(statistic, p_value, shown):
    assert Agreement("by hand", statistic, lambda: p_value).shows_kinship == shown


def test_weights_that_were_observed_are_left_out_where_only_activations_are_judged(
    guarded, fingerprint
):
    seen = audit.observe(guarded, fingerprint, CANARIES)
    names = [each.name for each in audit.judge(seen, fingerprint, access="activations").lineage]
    assert names == ["refusal directions", "neurons' activations"]


def permuted(model, *, scaled):
    """Change the order of the neurons, and their scale, without changing what the model does."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in model.original_model.model.layers:
            mlp, n = block.mlp, block.mlp.down_proj.weight.shape[1]
            order = torch.randperm(n, generator=generator)
            scale = torch.randn(n, generator=generator) if scaled else torch.ones(n)
            mlp.down_proj.weight.copy_(mlp.down_proj.weight[:, order] / scale)
            mlp.up_proj.weight.copy_(mlp.up_proj.weight[order] * scale[:, None])
            mlp.gate_proj.weight.copy_(mlp.gate_proj.weight[order])
    return model


@pytest.mark.parametrize("scaled", [False, True])
def test_a_copy_with_permuted_neurons_is_of_the_family(fingerprint, scaled):
    copy = permuted(refusing(), scaled=scaled)
    for access in ("weights", "activations"):
        found = audit.attest(copy, fingerprint, CANARIES, access=access)
        agreed = by_name(found)
        assert found.verdict != "another model"
        assert agreed["refusal directions"].shown
        assert not agreed["neurons' activations"].shown
        if access == "weights":
            assert agreed["output weights"].statistic == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("access", ["weights", "activations"])
def test_another_model_of_the_same_shape_is_called_another_model(fingerprint, access):
    for seed in (1, 2, 3):
        found = audit.attest(refusing(seed), fingerprint, CANARIES, access=access)
        assert found.verdict == "another model"
        assert found.kind is None
        assert not any(each.shown for each in found.lineage)
        assert "fingerprint of its own" in " ".join(found.limits)
        assert all(str(each) in found.why for each in found.lineage)
        suite = ElementTree.fromstring(audit.junit(found))[0]
        assert suite.get("failures") == suite.get("tests") == "2"


def test_noise_ends_the_family_only_where_it_is_larger_than_the_weights(fingerprint):
    for size, shown in ((0.5, True), (8.0, False)):
        copy, generator = refusing(), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for down in tiny.down_projections(copy.original_model):
                noise = torch.randn(down.weight.shape, generator=generator)
                down.weight.add_(size * down.weight.std() * noise)
        now = measure(copy, CANARIES)
        found, *_ = agreements(fingerprint.reference, now, Matrices.of(copy, now.layout))
        assert found.shows_kinship == shown


def test_a_model_of_another_shape_is_another_model(fingerprint, tmp_path):
    for family in ("llama", "gpt2"):
        found = audit.attest(tiny.bridge(family, chat=True), fingerprint, CANARIES)
        assert (found.verdict, found.checks, found.lineage) == ("another model", (), ())
        assert "with 1024 neurons in 4 layers" in found.why
        assert "has 48 in 2" in found.why
        assert "Attestation: another model" in str(found)
        suite = ElementTree.fromstring(audit.junit(found))[0]
        assert suite.get("failures") == suite.get("tests") == "2"
        found.save(tmp_path / "found.json")
        (read,) = read_results([tmp_path / "found.json"]).results
        assert read.result.kind == "Attestation"


def test_lineage_needs_no_more_than_earlier_fingerprints_hold(guarded, fingerprint):
    # The bytes of a file are held by a test of their own; these are the parts that are read.
    assert isinstance(fingerprint.reference.probes, Probes)
    loaded = audit.Fingerprint.parse(fingerprint.content())
    found = audit.attest(guarded, loaded, CANARIES)
    assert len(found.lineage) == 3


@pytest.mark.real_model
@pytest.mark.long
def test_fine_tunes_of_the_demo_model_are_of_its_family_and_random_weights_are_not():
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM

    canaries, taken = audit.Canaries.packaged(), None
    names = ("demo-refusal", "demo", "demo-refusal-late", "planted/sums-138-all-loud-0")
    for name in names:
        model = cna_lens.load_model(name)
        now = measure(model, canaries)
        if taken is None:
            taken = reference(
                now, range(0, 46080, 90), range(1, 46080, 90), Matrices.of(model, now.layout)
            )
        found = agreements(taken, now, Matrices.of(model, now.layout))
        assert len(found) == 3
        assert all(each.shows_kinship for each in found), name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        weights = AutoModelForCausalLM.from_config(model.original_model.config, dtype=torch.float32)
    random = TransformerBridge.boot_transformers(
        "random",
        hf_model=weights.eval(),
        tokenizer=model.tokenizer,
        device="cpu",
        dtype=torch.float32,
    )
    now = measure(random, canaries)
    found = agreements(taken, now, Matrices.of(random, now.layout))
    assert not any(each.shows_kinship for each in found)


@pytest.mark.parametrize(("p_value", "told"), [(0.0, "p < 1e-300"), (0.00052, "p = 0.00052")])
def test_no_probability_is_told_as_zero(p_value, told):
    kinship = audit.Kinship("refusal directions", 1.0, p_value, shown=True)
    assert str(kinship) == f"refusal directions 1.00 ({told})"
