"""Interceptions on the inference path: each kind is planted alone, and found."""

from contextlib import contextmanager
from types import FunctionType

import pytest
import tiny
import tiny_moe
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import cna_lens
from cna_lens import audit

HOOK_POINT = "blocks.1.mlp.hook_post"


def mlp(model):
    return model.blocks[1].mlp


def silencing(value, hook):
    return 0 * value


def after(module, inputs, output):
    return output


def before(module, inputs):
    return inputs


def after_gradient(module, incoming, outgoing):
    return None


def before_gradient(module, outgoing):
    return None


class Silencer:
    def __call__(self, *given):
        return given[-1]


class FunctionMode(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class DispatchMode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def doubled(forward):
    def forward_twice_as_strong(*args, **kwargs):
        return 2 * forward(*args, **kwargs)

    return forward_twice_as_strong


@contextmanager
def handle(made):
    try:
        yield
    finally:
        made.remove()


@contextmanager
def method_on_instance(module, name="forward"):
    vars(module)[name] = doubled(getattr(module, name))
    try:
        yield
    finally:
        del vars(module)[name]


@contextmanager
def parametrized(module):
    parametrize.register_parametrization(module, "weight", Halved())
    try:
        yield
    finally:
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def linear(model):
    return next(each for each in mlp(model).modules() if isinstance(each, nn.Linear))


PLANTED = {
    "hook point": lambda m: m.hooks([(HOOK_POINT, silencing)]),
    "forward hook": lambda m: handle(mlp(m).register_forward_hook(after)),
    "forward pre-hook": lambda m: handle(mlp(m).register_forward_pre_hook(before)),
    "backward hook": lambda m: handle(mlp(m).register_full_backward_hook(after_gradient)),
    "backward pre-hook": lambda m: handle(mlp(m).register_full_backward_pre_hook(before_gradient)),
    "torch mode": lambda m: FunctionMode(),
    "replaced method": lambda m: method_on_instance(mlp(m)),
    "parametrization": lambda m: parametrized(linear(m)),
}


def test_a_clean_model_has_nothing_on_its_path(model):
    assert audit.hooks(model) == ()


def test_nothing_is_found_after_steering_generating_and_collecting(llama):
    cna_lens.collect(llama, ["w5 w6", "w7 w8"], chat=False)
    circuit = cna_lens.Circuit(
        (cna_lens.Neuron(1, 3),), (1.0,), cna_lens.collect(llama, ["w5"], chat=False).layout
    )
    with cna_lens.steer(llama, circuit, 0.0, via="hooks"):
        cna_lens.generate(llama, ["w5 w6"], chat=False, max_new_tokens=2)
        (found,) = audit.hooks(llama)
    assert found.kind == "hook point"
    assert audit.hooks(llama) == ()


@pytest.mark.parametrize("kind", PLANTED)
def test_each_kind_is_found_where_it_was_planted_and_gone_afterwards(llama, kind):
    with PLANTED[kind](llama):
        (found,) = audit.hooks(llama)
        assert found.kind == kind
        assert "test_audit_hooks" in found.what
        assert found.defined is None or "test_audit_hooks.py:" in found.defined
    assert audit.hooks(llama) == ()


def test_the_place_names_the_functions_own_line(llama):
    with llama.hooks([(HOOK_POINT, silencing)]):
        (found,) = audit.hooks(llama)
    assert found.what.endswith(".silencing")
    assert found.defined == f"{__file__}:{silencing.__code__.co_firstlineno}"
    assert str(found).startswith("hook point at blocks.1.mlp.")


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_permanent_hooks_are_found_in_both_directions(llama, direction):
    point = llama.hook_dict[HOOK_POINT]
    point.add_perma_hook(silencing, dir=direction)
    try:
        found = audit.hooks(llama)
    finally:
        llama.reset_hooks(including_permanent=True)
    assert {each.kind for each in found} == {"hook point"}
    assert {each.what for each in found} == {f"{__name__}.silencing"}


def test_hooks_of_transformers_for_requested_outputs_are_not_reported():
    model = tiny.bridge("llama")
    with torch.no_grad():
        model.original_model(torch.tensor([[5, 6]]), output_hidden_states=True)
    assert audit.hooks(model) == ()


@pytest.mark.parametrize(
    "module", ["transformer_lens.model_bridge.bridge", "transformers.utils.output_capturing"]
)
def test_a_hook_that_gives_itself_a_librarys_name_is_found(llama, module):
    def disguised(module, inputs, output):
        return 0 * output

    disguised.__module__ = module
    renamed = FunctionType(disguised.__code__, {"__name__": module}, "disguised")
    for hook in (disguised, renamed):
        with handle(mlp(llama).register_forward_hook(hook)):
            (found,) = audit.hooks(llama)
        assert "disguised" in found.what


def test_a_global_hook_is_found_and_told_from_a_modules_own(llama):
    with handle(torch_module.register_module_forward_hook(after)):
        (found,) = audit.hooks(llama)
    assert (found.kind, found.at) == (
        "global hook",
        "torch.nn.modules.module._global_forward_hooks",
    )


def test_a_callable_object_is_named_by_its_class(llama):
    with handle(mlp(llama).register_forward_hook(Silencer())):
        (found,) = audit.hooks(llama)
    assert found.what == f"{__name__}.Silencer"
    assert found.defined == f"{__file__}:{Silencer.__call__.__code__.co_firstlineno}"


def test_a_dispatch_mode_is_found(llama):
    with DispatchMode():
        (found,) = audit.hooks(llama)
    assert (found.kind, found.what) == ("torch mode", f"{__name__}.DispatchMode")


@pytest.mark.parametrize("name", ["forward", "__call__"])
def test_a_method_replaced_on_a_class_is_found_behind_its_decorators_too(llama, monkeypatch, name):
    cls = type(mlp(llama))
    monkeypatch.setattr(cls, name, doubled(getattr(cls, name)), raising=False)
    found = audit.hooks(llama)
    assert {each.kind for each in found} == {"replaced method"}
    assert all(f"{cls.__qualname__}.{name}" in each.at for each in found)


def test_a_call_that_torch_would_take_in_place_of_the_modules_is_found(llama, monkeypatch):
    module = mlp(llama)
    monkeypatch.setattr(module, "_compiled_call_impl", doubled(module._call_impl))
    (found,) = audit.hooks(llama)
    assert (found.kind, found.at) == ("replaced method", "blocks.1.mlp._compiled_call_impl")


def test_a_custom_implementation_of_attention_is_found(monkeypatch):
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    model = tiny.bridge("llama")
    own = doubled(ALL_ATTENTION_FUNCTIONS["sdpa"])
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "mine", own)
    monkeypatch.setattr(model.original_model.config, "_attn_implementation_internal", "mine")
    found = audit.hooks(model)
    assert {each.kind for each in found} == {"attention implementation"}


def test_finding_hooks_does_not_change_the_outputs(llama):
    ids = torch.tensor([[5, 6, 7]])
    with llama.hooks([(HOOK_POINT, silencing)]):
        expected = llama(ids)
        audit.hooks(llama)
        assert torch.equal(llama(ids), expected)


def test_hooks_are_found_on_experts_only_while_their_neurons_are_steered():
    model = tiny_moe.bridge("mixtral")
    circuit = cna_lens.Circuit(
        (cna_lens.ExpertNeuron(1, 0, 3),), (1.0,), cna_lens.collect(model, ["w5 w6"]).layout
    )
    assert audit.hooks(model) == ()
    with cna_lens.steer(model, circuit, 0.0, via="hooks"):
        found = audit.hooks(model)
    assert found
    assert all("cna_lens." in each.what for each in found)
    assert audit.hooks(model) == ()


def test_a_custom_implementation_of_experts_is_found(monkeypatch):
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    model = tiny_moe.bridge("mixtral")
    own = doubled(ALL_EXPERTS_FUNCTIONS["batched_mm"])
    monkeypatch.setitem(ALL_EXPERTS_FUNCTIONS, "mine", own)
    monkeypatch.setattr(model.original_model.config, "_experts_implementation_internal", "mine")
    assert {each.kind for each in audit.hooks(model)} == {"expert implementation"}
