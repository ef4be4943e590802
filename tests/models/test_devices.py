"""A model on two devices: our tensors are on the device of their layer."""

import pytest
import tiny
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from second_device import FIRST, SECOND, OnSecond, SecondDevice, numbers
from torch import nn

import cna_lens

PROMPTS = [[9, 14, 30, 31, 5, 6, 7], [9, 14, 30, 31, 8, 9, 3], [9, 14, 30, 31, 40]]
OTHERS = [[9, 14, 30, 31, 33], [9, 14, 30, 31, 34, 35]]
IDS = torch.tensor(PROMPTS[:1])


@pytest.fixture
def both():
    """The same model on two devices and on one."""
    hf = tiny.hugging_face("llama")
    with SecondDevice():
        for module in (hf.model.layers[1], hf.model.norm):
            _put_on_second(module)
        add_hook_to_module(hf.lm_head, AlignDevicesHook(FIRST, place_submodules=False))
        hf.hf_device_map = {"model.layers.1": SECOND, "model.norm": SECOND, "": FIRST}
        yield tiny.boot(hf), tiny.boot(tiny.hugging_face("llama"))


def _put_on_second(module):
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            moved = OnSecond(weight.detach())
            part.register_parameter(name, nn.Parameter(moved, requires_grad=False))
    add_hook_to_module(module, AlignDevicesHook(SECOND, place_submodules=False))


def find(model, **options):
    return cna_lens.find_circuit(
        model, PROMPTS, OTHERS, k=8, universal=None, progress=False, **options
    )


def same_logits(models, context):
    logits = []
    for model in models:
        with torch.no_grad(), context(model):
            logits.append(numbers(model(IDS)))
    assert torch.equal(*logits)
    with torch.no_grad():
        assert not torch.equal(logits[0], models[1](IDS))


def test_the_second_device_is_separate(both):
    model, _ = both
    with pytest.raises(RuntimeError, match="got tensors on cpu:1 and on cpu"):
        model.blocks[1].mlp.out.original_component.weight @ torch.ones(tiny.WIDTH)


@pytest.mark.parametrize(
    "rank", ["contrast", "standardized", "attribution_patching", "relp", "random"]
)
def test_a_circuit_is_the_same_on_two_devices(both, rank):
    there, here = (find(model, rank=rank) for model in both)
    assert there == here
    assert set(here.by_layer()) == {0, 1}


def test_kept_activations_and_universal_neurons_are_the_same(both):
    kept = [numbers(cna_lens.collect(model, PROMPTS, keep="all").matrix()) for model in both]
    assert torch.equal(*kept)
    rule = cna_lens.UniversalRule(fraction=0.2, threshold=0.5)
    there, here = (cna_lens.universal_neurons(model, PROMPTS, rule=rule) for model in both)
    assert there.neurons == here.neurons
    assert len(here) > 0


@pytest.mark.parametrize(
    "options",
    [
        {"multiplier": 0.0},
        {"multiplier": 0.0, "positions": "last_prompt"},
        {"values": [3.0] * 8},
        {"values": [3.0] * 8, "positions": "prompt"},
    ],
    ids=str,
)
def test_steering_by_hooks_is_the_same(both, options):
    circuit = find(both[1])
    same_logits(both, lambda model: cna_lens.steer(model, circuit, via="hooks", **options))


METHODS = {
    "caa": lambda model, _: cna_lens.caa(model, PROMPTS, OTHERS),
    "caa of one layer": lambda model, _: cna_lens.caa(model, PROMPTS, OTHERS, layer=1),
    "directional ablation": lambda model, _: cna_lens.directional_ablation(
        model, PROMPTS, OTHERS, layer=1
    ),
    "mean ablation": lambda model, circuit: cna_lens.mean_ablation(
        circuit, cna_lens.collect(model, OTHERS)
    ),
    "magnitude anchor": lambda model, circuit: cna_lens.magnitude_anchor(
        circuit, cna_lens.collect(model, PROMPTS), cna_lens.collect(model, OTHERS), target=3.0
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_steering_methods_are_the_same(both, method):
    circuit = find(both[1])
    same_logits(both, lambda model: METHODS[method](model, circuit).at(model))


def test_answers_are_the_same(both):
    circuit = find(both[1])
    answers = []
    for model in both:
        with cna_lens.steer(model, circuit, 0.0, via="hooks"):
            answers.append(cna_lens.generate(model, PROMPTS, max_new_tokens=4))
    assert answers[0] == answers[1]
