"""SmolLM2 against a definition that is slow, and plain enough to check by reading it."""

from functools import partial

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import cna_lens
from cna_lens.models import dequantised_folder

PROMPTS = cna_lens.prompt_set("refusal_small")
DIVERSE = cna_lens.diverse_prompts()[:12]


@pytest.fixture(scope="module")
def slow_circuit():
    folder = dequantised_folder(cna_lens.models.loading.load.demo_gguf())
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def read_last_token(layers, module, args):
        layers.append(args[0][0, -1])

    def activations(texts):
        rows = []
        for text in texts:
            chat = [{"role": "user", "content": text}]
            ids = tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )["input_ids"]
            layers = []
            hooks = [
                down.register_forward_pre_hook(partial(read_last_token, layers))
                for down in tiny.down_projections(model)
            ]
            with torch.no_grad():
                model(ids)
            for hook in hooks:
                hook.remove()
            rows.append(torch.stack(layers).double())
        return torch.stack(rows)

    delta = activations(PROMPTS.positive).mean(0) - activations(PROMPTS.negative).mean(0)
    in_top = torch.zeros(delta.shape, dtype=torch.long)
    for row in activations(DIVERSE).abs():
        in_top += row >= row.flatten().topk(46).values[-1]
    universal = in_top >= 0.8 * len(DIVERSE)
    order = delta.abs().masked_fill(universal, -1).flatten().argsort(descending=True)[:46]
    width = delta.shape[1]
    neurons = [(flat // width, flat % width) for flat in order.tolist()]
    return neurons, [delta[neuron].item() for neuron in neurons], int(universal.sum())


@pytest.mark.real_model
def test_finds_the_neurons_of_the_slow_definition_in_their_order(demo, slow_circuit):
    neurons, deltas, n_universal = slow_circuit
    circuit = cna_lens.find_circuit(
        demo,
        PROMPTS.positive,
        PROMPTS.negative,
        universal=cna_lens.universal_neurons(demo, DIVERSE, progress=False),
        progress=False,
    )
    assert circuit.provenance.universal.n_neurons == n_universal > 0
    assert list(circuit) == neurons
    assert circuit.scores == pytest.approx(deltas, rel=1e-4)


@pytest.mark.real_model
def test_steering_by_weights_is_steering_by_hooks(demo, slow_circuit):
    neurons, deltas, _ = slow_circuit
    circuit = cna_lens.Circuit(
        tuple(cna_lens.Neuron(*neuron) for neuron in neurons),
        tuple(deltas),
        cna_lens.Layout((demo.cfg.d_mlp,) * demo.cfg.n_layers),
    )
    ids = torch.tensor([demo.tokenizer("The sky is").input_ids])
    logits = {}
    for via in ("hooks", "weights"):
        with cna_lens.steer(demo, circuit, 0.0, via=via), torch.no_grad():
            logits[via] = demo(ids)
    with torch.no_grad():
        unsteered = demo(ids)
    torch.testing.assert_close(logits["hooks"], logits["weights"], rtol=0, atol=2e-4)
    assert (unsteered - logits["hooks"]).abs().max() > 0.1
