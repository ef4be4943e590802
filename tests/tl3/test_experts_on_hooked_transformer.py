"""Experts' neurons in a HookedTransformer, and in the bridge of TransformerLens 3.9."""

import pytest
import tiny_moe
import torch

from cna_lens import ExpertNeuron, Experts, collect, expert_hooks, find_circuit, rank, scale, steer
from cna_lens.models import hook_name
from cna_lens.models.inside.routing import routed_to
from experiments.families.mixtures import EXPERTS, PER_TOKEN

PROMPTS = [[5, 6, 7], [9, 8, 11, 12, 40], [20], [30, 31, 32, 33]]
OTHERS = [[41, 42], [43, 44, 45], [46]]
IDS = torch.tensor([[5, 6, 7, 8, 9, 4, 33, 21]])


@pytest.fixture(scope="module", params=[True, False])
def hooked(request, hooked_transformer):
    model = hooked_transformer(
        d_mlp=tiny_moe.WIDTH,
        num_experts=EXPERTS,
        experts_per_token=PER_TOKEN,
        norm_topk_prob=request.param,
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return model


def by_hand(model, ids):
    """Activations at one prompt's last token, from inputs and weights, and the experts that ran."""
    values, ran = [], []
    _, cache = model.run_with_cache(torch.tensor([ids]))
    for layer, block in enumerate(model.blocks):
        x = cache[f"blocks.{layer}.ln2.hook_normalized"][0, -1]
        chances = (block.mlp.W_gate.weight @ x).softmax(-1)
        top = chances.topk(PER_TOKEN)
        weights = top.values / (top.values.sum() if model.cfg.norm_topk_prob else 1)
        row = torch.zeros(EXPERTS, tiny_moe.WIDTH)
        for expert, weight in zip(top.indices.tolist(), weights, strict=True):
            own = block.mlp.experts[expert]
            gate = own.W_gate.weight @ x
            row[expert] = weight * gate * gate.sigmoid() * (own.W_in.weight @ x)
            ran.append((layer, expert))
        values.append(row.flatten())
    return torch.cat(values).detach().double(), ran


def test_activations_are_route_weight_times_gated_activation(hooked):
    rows, ran = zip(*(by_hand(hooked, ids) for ids in PROMPTS), strict=True)
    stats = collect(hooked, PROMPTS)
    assert stats.layout.experts == (Experts(4, 8),) * 2
    torch.testing.assert_close(stats.mean, torch.stack(rows).mean(0), rtol=1e-4, atol=1e-6)
    frequency = [
        sum((mlp.layer, mlp.expert) in each for each in ran) / len(PROMPTS)
        for mlp in stats.layout.mlps
    ]
    assert stats.routing.frequency.tolist() == frequency


def test_hooks_weights_and_model_hooks_steer_alike_and_leave_nothing(hooked):
    circuit = find_circuit(hooked, PROMPTS, OTHERS, k=6, universal=None, progress=False)
    assert all(isinstance(neuron, ExpertNeuron) for neuron in circuit)
    with torch.no_grad():
        before = hooked(IDS)
        found = []
        for via in ("hooks", "weights"):
            with steer(hooked, circuit, 0.0, via=via) as steering:
                assert steering.via == via
                found.append(hooked(IDS))
        with hooked.hooks(fwd_hooks=scale(circuit, 0.0)):
            found.append(hooked(IDS))
        assert (found[0] - before).abs().max() > 0.05
        for other in found[1:]:
            torch.testing.assert_close(found[0], other)
        with steer(hooked, circuit, 1.0, via="hooks"), expert_hooks(hooked):
            assert torch.equal(hooked(IDS), before)
        assert torch.equal(hooked(IDS), before)
    assert not any(point.ctx or point.fwd_hooks for point in hooked.hook_dict.values())


def test_given_values_reach_the_output_at_the_last_prompt_token(hooked):
    circuit = rank(collect(hooked, PROMPTS), collect(hooked, OTHERS)).top(k=6)
    values = dict(zip(circuit, [0.2 * (place + 1) for place in range(6)], strict=True))

    def reaching_the_output():
        seen = {}

        def note(activation, hook):
            routed = routed_to(hook)
            weighted = activation * routed.weights[:, None]
            seen[hook.name] = dict(zip(routed.tokens.tolist(), weighted, strict=True))

        notes = [(name, note) for name in {hook_name(neuron.mlp) for neuron in circuit}]
        with torch.no_grad(), expert_hooks(hooked), hooked.hooks(fwd_hooks=notes):
            hooked(IDS)
        return seen

    before = reaching_the_output()
    with steer(hooked, circuit, values=list(values.values()), positions="last_prompt"):
        inside = reaching_the_output()
    changed = 0
    for neuron, value in values.items():
        for token, activations in inside[hook_name(neuron.mlp)].items():
            if token == IDS.shape[1] - 1:
                assert float(activations[neuron.index]) == pytest.approx(value, abs=1e-6)
                changed += 1
            else:
                torch.testing.assert_close(activations, before[hook_name(neuron.mlp)][token])
    assert changed


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
def test_a_bridge_of_transformerlens_3_is_read_and_steered_too(family):
    model = tiny_moe.bridge(family)
    circuit = find_circuit(model, PROMPTS, OTHERS, k=12, universal=None, progress=False)
    with torch.no_grad():
        before = model(IDS)
        with expert_hooks(model):
            assert torch.equal(model(IDS), before)
        with steer(model, circuit, 0.0, via="hooks"):
            by_hooks = model(IDS)
        with steer(model, circuit, 0.0, via="weights"):
            torch.testing.assert_close(model(IDS), by_hooks, rtol=1e-4, atol=1e-5)
        assert (by_hooks - before).abs().max() > 0.05
        assert torch.equal(model(IDS), before)
