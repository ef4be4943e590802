"""Code on a model's inference path that is not the model's own."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from types import CodeType, FunctionType
from typing import Any, Literal, cast

from torch import nn, overrides
from torch.nn.modules import module as torch_module
from torch.utils import _python_dispatch

from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.paged_weights import reads_weights_ahead
from cna_lens.models.trial.kv_cache import hands_cache_on

Kind = Literal[
    "hook point",
    "forward hook",
    "forward pre-hook",
    "backward hook",
    "backward pre-hook",
    "global hook",
    "torch mode",
    "replaced method",
    "parametrization",
    "attention implementation",
    "expert implementation",
]

_TORCH_HOOKS: Mapping[str, Kind] = {
    "_forward_hooks": "forward hook",
    "_forward_pre_hooks": "forward pre-hook",
    "_backward_hooks": "backward hook",
    "_backward_pre_hooks": "backward pre-hook",
}
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)
_WIRING = ("transformer_lens.model_bridge.", "transformers.utils.output_capturing")
"""Modules that register hooks of their own: a bridge from its first forward pass on, Transformers
once hidden states or attentions were requested."""

_LIBRARIES = frozenset(
    {"torch", "transformers", "transformer_lens", "jaxtyping", "beartype", "typeguard"}
)


@dataclass(frozen=True)
class Interception:
    """Code that takes part in the computation of a model and does not belong to it.

    Attributes:
        kind: how the code got there.
        at: the path of the module in the model, or the part of torch that is changed.
        what: the function or class that is called there.
        defined: its file and line; None for compiled code.
    """

    kind: Kind
    at: str
    what: str
    defined: str | None

    def __str__(self) -> str:
        """One line of a report."""
        return f"{self.kind} at {self.at}: {self.what} ({self.defined or 'compiled code'})"


def hooks(model: HookedModel) -> tuple[Interception, ...]:
    """Find all code on the inference path that is not the model's own.

    Reported are functions on TransformerLens's hook points; torch's forward, forward-pre, backward
    and backward-pre hooks, on modules and global; torch's function and dispatch modes; methods
    replaced on a module or on its class; parametrizations of weights; and implementations of
    attention or experts that are not from Transformers. Hooks that torch, Transformers and
    TransformerLens add by themselves are not reported. No forward pass runs, and the model stays
    unchanged.

    Only the Python objects of the model are inspected. Edited weights are not seen (fingerprints
    see them), nor edited files of these libraries or classes that were written to behave
    differently (hashes of the installed packages reveal them).

    >>> hooks(tiny_model)
    ()
    >>> with tiny_model.hooks([("blocks.0.mlp.hook_post", lambda value, hook: 0 * value)]):
    ...     [(found.kind, found.at) for found in hooks(tiny_model)]
    [('hook point', 'blocks.0.mlp.out.hook_in')]

    Args:
        model: a TransformerBridge or HookedTransformer.
    """
    found = [*_global_hooks(), *_modes()]
    classes: dict[type, str] = {}
    for path, module in _modules(model):
        found += _own_hooks(path, module)
        found += _replaced_on_instance(path, module)
        found += _parametrizations(path, module)
        classes.setdefault(type(module), path)
    for cls, path in classes.items():
        found += _replaced_on_class(path, cls)
    return tuple(dict.fromkeys([*found, *_implementations(model)]))


def _modules(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """Every module once, with its shortest path: a bridge holds most modules under several."""
    paths: dict[nn.Module, str] = {}
    for prefix, root in (("", model), ("original_model", getattr(model, "original_model", None))):
        if root is None:
            continue
        for path, module in root.named_modules(prefix=prefix, remove_duplicate=False):
            known = paths.get(module)
            if known is None or len(path) < len(known):
                paths[module] = path or type(module).__name__
    for module, path in paths.items():
        yield path, module


def _own_hooks(path: str, module: nn.Module) -> Iterator[Interception]:
    is_hook_point = hasattr(module, "fwd_hooks") and hasattr(module, "bwd_hooks")
    for attribute, kind in _TORCH_HOOKS.items():
        for function in (getattr(module, attribute, None) or {}).values():
            if is_hook_point:
                yield _interception("hook point", path, _given(function))
            elif not _is_wiring(function):
                yield _interception(kind, path, function)


def _is_wiring(function: Any) -> bool:
    """Whether a library added a hook: its code must run in that module, as a name can be forged."""
    if hands_cache_on(function) or reads_weights_ahead(function):
        return True
    code = getattr(function, "__func__", function)
    runs_in = getattr(code, "__globals__", {})
    name = runs_in.get("__name__", "")
    return name.startswith(_WIRING) and runs_in is vars(sys.modules.get(name, sys))


def _global_hooks() -> Iterator[Interception]:
    for attribute in _GLOBAL_HOOKS:
        for function in getattr(torch_module, attribute).values():
            yield _interception("global hook", f"torch.nn.modules.module.{attribute}", function)


def _modes() -> Iterator[Interception]:
    stacks = [
        overrides._get_current_function_mode_stack(),  # pyright: ignore[reportPrivateUsage]
        _python_dispatch._get_current_dispatch_mode_stack(),  # pyright: ignore[reportPrivateUsage]
    ]
    for mode in chain.from_iterable(stacks):
        if _package(type(mode).__module__) != "torch":
            yield _interception("torch mode", "every operation of torch", mode)


def _replaced_on_instance(path: str, module: nn.Module) -> Iterator[Interception]:
    """Attributes of the module that hide a method of its class, or the call itself."""
    for name, value in vars(module).items():
        is_code = callable(value) and not isinstance(value, nn.Module | type)
        if is_code and hasattr(type(module), name):
            yield _interception("replaced method", f"{path}.{name}", value)


def _replaced_on_class(path: str, cls: type) -> Iterator[Interception]:
    """Methods whose code is neither from the package of the class nor from a library."""
    for owner in cls.__mro__[:-1]:
        own = _package(owner.__module__)
        for name, value in vars(owner).items():
            for function in _chain(value):
                origin = _package(function.__globals__.get("__name__", ""))
                if origin not in {own, *_LIBRARIES} and origin not in sys.stdlib_module_names:
                    at = f"{path} ({owner.__qualname__}.{name})"
                    yield _interception("replaced method", at, function)


def _parametrizations(path: str, module: nn.Module) -> Iterator[Interception]:
    # torch's `is_parametrized` would be true for a bridge's module and for the one it wraps.
    parametrizations = dict(module.named_children()).get("parametrizations")
    if not isinstance(parametrizations, nn.ModuleDict):
        return
    for name, applied in parametrizations.items():
        for each in cast("nn.ModuleList", applied):
            yield _interception("parametrization", f"{path}.{name}", each.forward)


def _implementations(model: Any) -> Iterator[Interception]:
    """Functions that the configuration chooses by name from the registries of Transformers."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    registries: list[tuple[Kind, str, Any]] = [
        ("attention implementation", "_attn_implementation", ALL_ATTENTION_FUNCTIONS)
    ]
    try:
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    except ImportError:
        pass
    else:
        registries.append(
            ("expert implementation", "_experts_implementation", ALL_EXPERTS_FUNCTIONS)
        )
    for path, module in _modules(model):
        config = getattr(module, "config", None)
        for kind, attribute, registry in registries:
            name = getattr(config, attribute, None)
            function = registry.get(name) if isinstance(name, str) else None
            if function is not None and _package(function.__module__) != "transformers":
                yield _interception(kind, path, function)


def _interception(kind: Kind, at: str, what: Any) -> Interception:
    function = what.func if isinstance(what, partial) else what
    name = getattr(function, "__qualname__", type(function).__qualname__)
    module = getattr(function, "__module__", type(function).__module__)
    return Interception(kind, at, f"{module}.{name}", _defined(function))


def _given(function: Callable[..., Any]) -> Any:
    """The user's function inside the one that TransformerLens made of it."""
    while _package(getattr(function, "__module__", "")) == "transformer_lens":
        variables = inspect.getclosurevars(function).nonlocals
        inner = variables.get("full_hook", variables.get("hook"))
        if inner is None:
            break
        function = inner
    return function


def _chain(value: Any) -> Iterator[FunctionType]:
    """The Python functions of a class attribute, from the outermost decorator inwards."""
    function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    while isinstance(function, FunctionType):
        yield function
        function = getattr(function, "__wrapped__", None)


def _defined(function: Any) -> str | None:
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", getattr(type(function).__call__, "__code__", None))
    return f"{code.co_filename}:{code.co_firstlineno}" if isinstance(code, CodeType) else None


def _package(module: str) -> str:
    return module.partition(".")[0]
