"""Neurons of routed experts: their contribution to the output is read, beside dense layers."""

import dataclasses
from contextlib import nullcontext, suppress

import pytest
import reference
import tiny
import tiny_moe
import torch

import cna_lens
from cna_lens import (
    Circuit,
    ContrastPart,
    ExpertNeuron,
    ModelError,
    Neuron,
    collect,
    expert_hooks,
    find_circuit,
    rank,
    steer,
)
from cna_lens.discovery.activations.experts import ExpertReadout
from cna_lens.models.inside.sites import sparse_sites
from experiments.families import plain_experts
from experiments.families.mixtures import EXPERTS

PROMPTS = [[5, 6, 7], [9, 8, 11, 12, 40], [20], [30, 31, 32, 33]]
OTHERS = [[41, 42], [43, 44, 45], [46]]
TOKENS = torch.tensor([[5, 6, 7, 8, 9, 4, 33, 21], [9, 8, 11, 12, 40, 41, 42, 3]])


@pytest.fixture(scope="module")
def models():
    return {family: reference.settled(tiny_moe.bridge(family)) for family in tiny_moe.FAMILIES}


@pytest.fixture(params=tiny_moe.FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def mixtral(models):
    return models["mixtral"]


def by_hand(family, prompts, layout, position=-1):
    hf = tiny_moe.hugging_face(family)
    found = [plain_experts.activations(hf, ids, layout, position) for ids in prompts]
    return torch.stack([values for values, _ in found]), [ran for _, ran in found]


def expected_layout(family):
    experts = (EXPERTS, tiny_moe.WIDTH)
    sparse = tiny_moe.SPARSE_LAYERS.get(family, (0, 1, 2))
    dense = tiny_moe.DENSE_WIDTHS.get(family, (0, 0, 0))
    return (
        tuple(
            dense[layer] + (EXPERTS * tiny_moe.WIDTH if layer in sparse else 0)
            for layer in range(3)
        ),
        tuple(experts if layer in sparse else (0, 0) for layer in range(3)),
    )


@pytest.mark.parametrize("position", [-1, 0])
def test_activations_are_route_weight_times_gated_activation_and_0_where_not_routed(
    family, models, position
):
    kept = collect(models[family], PROMPTS, keep="all", position=position)
    assert (kept.layout.widths, kept.layout.experts) == expected_layout(family)
    expected, _ = by_hand(family, PROMPTS, kept.layout, position)
    torch.testing.assert_close(kept.matrix().double(), expected, rtol=1e-4, atol=1e-6)
    stats = collect(models[family], PROMPTS, position=position)
    torch.testing.assert_close(stats.mean, expected.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(stats.variance, expected.var(0), rtol=1e-3, atol=1e-6)


def test_routing_is_reported_separately_from_activation(family, models):
    stats = collect(models[family], PROMPTS)
    layout = stats.layout
    rows, ran = by_hand(family, PROMPTS, layout)
    frequency = {
        mlp: sum((mlp.layer, mlp.expert) in each for each in ran) / len(PROMPTS)
        if mlp.expert is not None
        else 1.0
        for mlp in layout.mlps
    }
    assert dict(zip(layout.mlps, stats.routing.frequency.tolist(), strict=True)) == frequency
    frame = stats.routing.to_frame().set_index(["layer", "expert"])
    assert frame.frequency.to_dict() == {
        (mlp.layer, mlp.expert): share for mlp, share in frequency.items() if mlp.expert is not None
    }
    of_neuron = torch.tensor([frequency[n.mlp] for n in layout.neurons()], dtype=torch.float64)
    where_routed = torch.where(of_neuron > 0, rows.mean(0) / of_neuron, 0.0)
    torch.testing.assert_close(stats.mean_where_routed, where_routed, rtol=1e-4, atol=1e-6)


def test_the_unweighted_mean_is_that_of_the_gated_activation_over_routed_prompts(family, models):
    stats = collect(models[family], PROMPTS)
    layout = stats.layout
    hf = tiny_moe.hugging_face(family)
    layer = tiny_moe.SPARSE_LAYERS.get(family, (0, 1, 2))[-1]
    seen = {}
    for ids in PROMPTS:
        inputs = []
        mlp = hf.model.layers[layer].mlp
        handle = mlp.experts.register_forward_pre_hook(lambda _, args: inputs.append(args))  # noqa: B023
        reference.logits(hf, ids)
        handle.remove()
        hidden, index, _ = inputs[0]
        for expert in index[-1].tolist():
            activation = plain_experts.gated(mlp.experts, hidden[-1], expert)
            seen.setdefault(expert, []).append(activation.detach())
    for expert in range(EXPERTS):
        start = layout.start(cna_lens.MLP(layer, expert))
        found = stats.routing.unweighted_mean[start : start + tiny_moe.WIDTH]
        if expert in seen:
            expected = torch.stack(seen[expert]).double().mean(0)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        else:
            assert bool(found.isnan().all())


def test_batches_prefixes_and_merging_change_nothing(models):
    prompts = [[30, 31, 32, 33, 34, *ids] for ids in PROMPTS]
    for family in ("mixtral", "qwen2_moe"):
        model = models[family]
        together = collect(model, prompts)
        alone = collect(model, prompts, batch_size=1, share_prefix=False)
        merged = collect(model, prompts[:1]).merge(collect(model, prompts[1:]))
        for other in (alone, merged):
            torch.testing.assert_close(together.mean, other.mean, rtol=1e-4, atol=1e-6)
            assert together.routing.counts.tolist() == other.routing.counts.tolist()
            torch.testing.assert_close(
                together.routing.unweighted_mean,
                other.routing.unweighted_mean,
                rtol=1e-4,
                atol=1e-5,
                equal_nan=True,
            )


def test_kept_activations_give_the_routing_too(models, tmp_path):
    model = models["qwen2_moe"]
    stats = collect(model, PROMPTS, batch_size=2)
    for folder in (None, tmp_path):
        kept = collect(model, PROMPTS, keep="all", batch_size=3, folder=folder).stats()
        torch.testing.assert_close(kept.mean, stats.mean, rtol=1e-4, atol=1e-6)
        assert kept.routing.counts.tolist() == stats.routing.counts.tolist()
        torch.testing.assert_close(kept.routing.weights, stats.routing.weights, rtol=1e-4, atol=0)


@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm", "eager"])
def test_logits_are_bit_identical_where_nothing_is_steered(family, models, implementation):
    model = models[family]
    own = model.original_model
    before = own.get_experts_implementation()
    own.set_experts_implementation(implementation)
    try:
        names, hooks = set(model.hook_dict), reference.hooks(model)
        with torch.no_grad():
            logits = model(TOKENS)
            with expert_hooks(model):
                assert model.original_model.get_experts_implementation() == {"": implementation}
                assert torch.equal(model(TOKENS), logits)
                seen = []
                points = [f"blocks.2.mlp.experts.{expert}.hook_post" for expert in range(EXPERTS)]
                look = [(point, lambda a, hook: seen.append(a.shape)) for point in points]
                with model.hooks(fwd_hooks=look):
                    assert torch.equal(model(TOKENS), logits)
            collect(model, PROMPTS)
            assert torch.equal(model(TOKENS), logits)
        assert {shape[-1] for shape in seen} == {tiny_moe.WIDTH}
        assert set(model.hook_dict) == names
        assert reference.hooks(model) == hooks
    finally:
        own.set_experts_implementation(before)


@pytest.mark.parametrize("before", [True, False], ids=["before the point", "at the point"])
def test_hooks_of_torch_on_an_experts_point_steer_it(mixtral, before):
    name = "blocks.2.mlp.experts.0.hook_post"
    with torch.no_grad(), expert_hooks(mixtral):
        plain = mixtral(TOKENS)
        with mixtral.hooks(fwd_hooks=[(name, lambda activation, hook: 3 * activation)]):
            expected = mixtral(TOKENS)
        point = mixtral.hook_dict[name]
        if before:
            point.register_forward_pre_hook(lambda _, args: (3 * args[0],))
        else:
            point.register_forward_hook(lambda _, args, activation: 3 * activation)
        assert torch.equal(mixtral(TOKENS), expected)
    assert not torch.equal(expected, plain)


def test_no_hook_stays_after_an_exception(models):
    model = models["qwen2_moe"]
    names, hooks = set(model.hook_dict), reference.hooks(model)
    with suppress(RuntimeError), expert_hooks(model), expert_hooks(model):
        model(TOKENS)
        raise RuntimeError

    class Broken:
        def update(self, *_):
            raise RuntimeError("in the reducer")

    from cna_lens.discovery import Reader
    from cna_lens.models import encode

    with pytest.raises(RuntimeError, match="in the reducer"):
        Reader(model).read([(encode(model, PROMPTS), Broken())])
    assert set(model.hook_dict) == names
    assert reference.hooks(model) == hooks
    assert not any(point.ctx for point in model.hook_dict.values())


@pytest.mark.parametrize("part", ["routed", "shared"])
def test_experts_of_which_only_a_part_ran_are_named(models, part):
    model = models["qwen2_moe"]
    readout = ExpertReadout(sparse_sites(model), torch.tensor([0]))
    hooks = readout.fwd_hooks() if part == "shared" else []
    reading = readout.reading() if part == "routed" else nullcontext()
    with torch.no_grad(), expert_hooks(model), reading, model.hooks(fwd_hooks=hooks):
        model(TOKENS)
    with pytest.raises(ModelError, match=r"the experts of layer 0 never ran"):
        readout.layers()


def test_experts_that_never_or_twice_ran_are_named(mixtral):
    readout = ExpertReadout(sparse_sites(mixtral), torch.tensor([0]))
    with pytest.raises(ModelError, match="the experts of layer 0 never ran"):
        readout.layers()
    with torch.no_grad(), expert_hooks(mixtral), readout.reading():
        mixtral(TOKENS)
        with pytest.raises(ModelError, match="ran twice in one forward pass"):
            mixtral(TOKENS)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_a_planted_neuron_of_an_expert_ranks_first(family):
    hf = tiny_moe.hugging_face(family)
    layout = cna_lens.Layout((32,) * 3, (cna_lens.Experts(4, 8),) * 3)
    rows, ran = by_hand(family, PROMPTS, layout)
    expert = next(e for layer, e in ran[0] if layer == 2)
    start = layout.start(cna_lens.MLP(2, expert))
    index = int(rows[0, start : start + 8].abs().argmax())
    with torch.no_grad():
        weight = hf.model.layers[2].mlp.experts.gate_up_proj
        if family == "gpt_oss":
            weight[expert, :, 2 * index : 2 * index + 2] *= 50
            hf.model.layers[2].mlp.experts.limit = 1e6
        else:
            weight[expert, 8 + index] *= 50
    model = tiny.boot(hf)
    circuit = find_circuit(model, PROMPTS[:1], OTHERS, k=2, universal=None, progress=False)
    assert circuit.neurons[0] == ExpertNeuron(2, expert, index)
    assert circuit.layout == layout


def test_the_whole_method_counts_the_neurons_of_all_experts(models, tmp_path):
    model = models["qwen2_moe"]
    circuit = find_circuit(model, PROMPTS, OTHERS, fraction=0.2, progress=False)
    assert circuit.layout.n_neurons == 2 * (4 * 8 + 12) + 24
    assert len(circuit) == round(0.2 * circuit.layout.n_neurons)
    assert {type(neuron) for neuron in circuit} == {Neuron, ExpertNeuron}
    assert "of 112 neurons of all experts" in repr(circuit)
    circuit.save(tmp_path / "circuit.json")
    assert Circuit.load(tmp_path / "circuit.json") == circuit
    frame = circuit.to_frame()
    assert list(frame.columns) == ["layer", "expert", "index", "score"]
    assert frame.expert.isna().tolist() == [type(neuron) is Neuron for neuron in circuit]
    universal = [circuit.neurons[0], tuple(circuit.neurons[1])]
    scores = rank(collect(model, PROMPTS), collect(model, OTHERS))
    left = cna_lens.filter_universal(scores, universal).top(k=5)
    assert not set(universal) & set(left)


def test_output_weights_are_the_lengths_of_each_experts_columns(models):
    for family in ("gpt_oss", "qwen2_moe"):
        hf, model = tiny_moe.hugging_face(family), models[family]
        contrast = rank(collect(model, PROMPTS), collect(model, OTHERS))
        scores = cna_lens.score_neurons(model, PROMPTS, OTHERS, "output_weighted")
        for neuron in scores.top(k=12):
            mlp = hf.model.layers[neuron.layer].mlp
            if neuron.mlp.expert is not None:
                weight = mlp.experts.down_proj[neuron.expert]
                column = weight[neuron.index] if family == "gpt_oss" else weight[:, neuron.index]
            else:
                down = mlp.shared_expert.down_proj if hasattr(mlp, "experts") else mlp.down_proj
                column = down.weight[:, neuron.index]
            place = scores.layout.flat(neuron)
            expected = float(contrast.values[place]) * float(column.detach().double().norm())
            assert float(scores.values[place]) == pytest.approx(expected, rel=1e-4)


def test_the_parts_of_a_contrast_sum_to_it_and_separate_routing_from_activation(mixtral):
    positive, negative = collect(mixtral, PROMPTS), collect(mixtral, OTHERS)
    parts = [
        rank(positive, negative, ContrastPart(part)).values for part in ("activation", "routing")
    ]
    torch.testing.assert_close(sum(parts), rank(positive, negative).values)
    one_side = (positive.routing.neuron_frequency > 0) ^ (negative.routing.neuron_frequency > 0)
    assert bool(one_side.any())
    for sets in ((positive, negative), (negative, positive)):
        assert not bool(rank(*sets, ContrastPart("activation")).values[one_side].any())
    often = positive.routing.neuron_frequency == negative.routing.neuron_frequency
    assert not bool(parts[1][often].any())
    # Twice as active where routed, and routed as often: the whole contrast is activation.
    louder = dataclasses.replace(positive, mean=2 * positive.mean)
    activation = rank(louder, positive, ContrastPart("activation"))
    torch.testing.assert_close(activation.values, positive.mean)


def test_unreachable_experts_are_refused_with_the_reason():
    def refused(change, match, family="mixtral"):
        hf = tiny_moe.hugging_face(family)
        model = tiny.boot(hf)
        change(model.original_model.model.layers[1])
        with pytest.raises(ModelError, match=f"layer 1 of tiny-{family}.*{match}"):
            collect(model, PROMPTS)
        with pytest.raises(ModelError, match=match):
            steer(model, Circuit((), (), cna_lens.Layout((32,) * 3)), 0.0).__enter__()

    def inner(block):
        return block.original_component.mlp.original_component

    def quantised(block):
        experts = inner(block).experts
        weight = torch.nn.Parameter(experts.down_proj.to(torch.int8), requires_grad=False)
        experts.down_proj = weight

    def normed(block):
        inner(block).experts.has_post_expert_norm = True

    def parallel(block):
        inner(block).experts._is_expert_parallel = True

    def offloaded(block):
        inner(block).experts.to("meta")

    def residual(block):
        inner(block).residual_mlp = torch.nn.Linear(2, 2)

    def elsewhere(block):
        block.original_component.experts = torch.nn.Linear(2, 2)

    refused(quantised, "MixtralExperts keeps down_proj quantised")
    refused(normed, "normalises the output of each expert")
    refused(parallel, "spread over several processes")
    refused(offloaded, "offloaded")
    refused(residual, "has a part 'residual_mlp' beside its experts")
    refused(elsewhere, "has experts at experts", family="qwen2_moe")


def test_experts_whose_output_differs_from_their_weights_are_not_read(monkeypatch):
    model = tiny_moe.bridge("olmoe")
    experts = model.original_model.model.layers[2].original_component.mlp.original_component.experts
    own = experts.forward
    monkeypatch.setattr(experts, "forward", lambda *args: 1.01 * own(*args))
    with pytest.raises(
        ModelError, match="neurons of layer 2 do not add up to the output of its experts"
    ):
        collect(model, PROMPTS)


@pytest.mark.parametrize("ranking", ["attribution_patching", "relp"])
def test_rankings_by_gradient_refuse_experts_before_anything_runs(mixtral, ranking, monkeypatch):
    monkeypatch.setattr(type(mixtral), "forward", lambda *_, **__: pytest.fail("it ran"))
    metric = cna_lens.LogOdds(openings=("w5",))
    method = {"attribution_patching": cna_lens.AttributionPatching, "relp": cna_lens.RelP}[ranking]
    with pytest.raises(ModelError, match=r"layer 0 .*experts.*rankings contrast"):
        find_circuit(mixtral, PROMPTS, OTHERS, rank=method(metric), progress=False)
