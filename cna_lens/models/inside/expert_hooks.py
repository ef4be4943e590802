"""Hook points for experts' neurons on a bridge, as HookedTransformer has them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cna_lens.errors import ModelError
from cna_lens.models.hooked_model import HookedModel, hooks_of_their_own, is_bridge
from cna_lens.models.inside.experts import FusedExperts, HookedExperts
from cna_lens.models.inside.routing import ROUTED, Routed, Router
from cna_lens.models.inside.sites import LayerSites, hook_name, sparse_sites
from cna_lens.results.neurons import MLP

# Runs after a layer's experts, and may replace their output.
Behind = Callable[[LayerSites, Tensor, Router, Tensor], Tensor | None]
NamedHook = tuple[str, Callable[..., None]]

# The hook points of bridges' experts, while a context provides them.
_points: WeakKeyDictionary[nn.Module, Sequence[Any]] = WeakKeyDictionary()

# How many contexts need a bridge's hook points of experts, and what the last of them undoes.
_open: WeakKeyDictionary[nn.Module, tuple[int, ExitStack]] = WeakKeyDictionary()
_lock = threading.RLock()


@contextmanager
def expert_hooks(model: HookedModel) -> Generator[None]:
    r"""Give the neurons of each expert a hook point while the context lasts.

    `blocks.{l}.mlp.experts.{e}.hook_post` holds the expert's gated activations [routed, d_mlp] for
    the tokens that are routed to it, like HookedTransformer's hook point of that name; `scale` and
    `set_to` use this name. Shared experts, whose name differs between models, are at
    `blocks.{l}.mlp.shared_experts.hook_post`. `steer` and `collect` enter this context themselves.

        with cna_lens.expert_hooks(model), model.hooks(fwd_hooks=cna_lens.scale(circuit, 0.0)):
            logits = model(tokens)

    A bridge's model runs its experts with its own implementation, so the output is bit-identical
    where no hook changes an activation. Where a hook does, the effect of the change is added to the
    output of the layer's experts, which is linear in the activations:

    $$y_t \leftarrow y_t + \sum_e w_{t,e} \, (a'_{t,e} - a_{t,e}) \, W^{\text{out}}_e.$$

    In half precision the sum is as exact as y.

    Args:
        model: a TransformerBridge or HookedTransformer; a model without experts is left alone.

    Raises:
        ModelError: a layer's experts cannot be reached.
    """
    sites = sparse_sites(model)
    if not sites:
        yield
        return
    with ExitStack() as stack:
        if is_bridge(model):
            stack.enter_context(_shared_points(model, sites))
        points = model.hook_dict
        stack.callback(_forget, points)
        hooks = [hook for site in sites for hook in _routing_hooks(site, points)]
        stack.enter_context(hooks_of_their_own(model, hooks))
        yield


def _forget(points: Mapping[str, Any]) -> None:
    for point in points.values():
        point.ctx.pop(ROUTED, None)


@contextmanager
def behind_experts(sites: Sequence[LayerSites], run: Behind) -> Generator[None]:
    """Call a function with each layer's hidden states, routing and output, after its experts.

    Args:
        sites: layers; only fused experts are followed.
        run: takes the layer, the hidden states, the routing and the output; a tensor that it
            returns replaces the output.
    """
    with ExitStack() as stack:
        for site in sites:
            if isinstance(site.experts, FusedExperts):
                hook = partial(_call, site=site, run=run)
                stack.enter_context(site.experts.module.register_forward_hook(hook))
        yield


def _call(
    module: nn.Module, args: tuple[Any, ...], output: Any, *, site: LayerSites, run: Behind
) -> Tensor | None:
    fits = len(args) == 3 and isinstance(output, Tensor) and args[0].shape == output.shape
    if not fits or args[1].shape != args[2].shape or len(args[1]) != len(output):
        raise ModelError(
            f"{type(module).__name__} of layer {site.layer} is not called with the hidden states "
            "[token, d_model], the experts and the weights [token, slot] of Transformers' "
            "convention; its neurons cannot be reached"
        )
    return run(site, args[0], Router(args[1], args[2]), output)


def through_point(
    module: nn.Module, expert: int, activations: Float[Tensor, "routed d_mlp"], routed: Routed
) -> Float[Tensor, "routed d_mlp"]:
    """Pass the activations of a bridge's expert through the hooks on its hook point."""
    point = _points[module][expert]
    if not _has_hooks(point):
        return activations
    point.ctx[ROUTED] = routed
    try:
        return point(activations)
    finally:
        del point.ctx[ROUTED]


def _has_hooks(point: Any) -> bool:
    # The lists of TransformerLens leave out hooks that were registered through torch.
    return any((point.fwd_hooks, point.bwd_hooks, point._forward_hooks, point._forward_pre_hooks))


def _steered_output(
    site: LayerSites, hidden: Tensor, router: Router, output: Tensor
) -> Tensor | None:
    experts = _fused(site)
    steered: Tensor | None = None
    for expert in router.chosen():
        point = _points[experts.module][expert]
        if not _has_hooks(point):
            continue
        routed = router.to(expert)
        before = experts.activations(hidden[routed.tokens], expert)
        after = through_point(experts.module, expert, before, routed)
        difference = (after - before) * routed.weights[:, None]
        if steered is None:
            steered = output.to(torch.promote_types(output.dtype, torch.float32), copy=True)
        written = experts.written(difference, expert)
        steered = steered.index_add(0, routed.tokens, written.to(steered.dtype))
    return None if steered is None else steered.to(output.dtype)


@contextmanager
def _shared_points(model: HookedModel, sites: Sequence[LayerSites]) -> Generator[None]:
    """Keep the hook points until the last of several contexts ends, in whatever order they do."""
    module = cast("nn.Module", model)
    with _lock:
        count, undo = _open.get(module, (0, ExitStack()))
        if not count:
            undo.enter_context(_own_points(model, sites))
        _open[module] = count + 1, undo
    try:
        yield
    finally:
        with _lock:
            count, undo = _open.pop(module)
            if count > 1:
                _open[module] = count - 1, undo
            else:
                undo.close()


@contextmanager
def _own_points(model: HookedModel, sites: Sequence[LayerSites]) -> Generator[None]:
    from transformer_lens.hook_points import HookPoint

    registry, points = _registry(model), model.hook_dict
    new = [site for site in sites if _fused(site).module not in _points]
    added: list[str] = []
    try:
        for site in new:
            layer, experts = site.layer, _fused(site)
            own = [HookPoint() for _ in range(experts.shape.count)]
            names = [hook_name(MLP(layer, expert)) for expert in range(len(own))]
            if site.dense is not None:
                names.append(f"blocks.{layer}.mlp.shared_experts.hook_post")
                own.append(points[site.dense])
            for name, point in zip(names, own, strict=True):
                if name not in registry:
                    point.name = point.name or name
                    registry[name] = point
                    added.append(name)
            _points[experts.module] = own
        with behind_experts(new, _steered_output):
            yield
    finally:
        for name in added:
            del registry[name]
        for site in new:
            _points.pop(_fused(site).module, None)


def _fused(site: LayerSites) -> FusedExperts:
    return cast("FusedExperts", site.experts)


def _registry(model: HookedModel) -> dict[str, Any]:
    registry = getattr(model, "_hook_registry", None)
    if not isinstance(registry, dict):
        raise ModelError(
            "cna_lens does not know where this TransformerLens keeps a bridge's hook points; use "
            "transformer-lens>=3.9,<5"
        )
    return cast("dict[str, Any]", registry)


def _routing_hooks(site: LayerSites, points: Mapping[str, Any]) -> list[NamedHook]:
    """Make hooks that write tokens and route weights into the hook points' contexts."""
    if isinstance(site.experts, HookedExperts):
        return _hooked_routing(site, site.experts, points)
    if site.dense is None:
        return []
    shared = partial(_note_shared, point=points[site.dense], gate=site.shared_gate)
    return [(site.dense.replace("hook_post", "hook_in"), shared)]


def _note_shared(hidden: Tensor, hook: Any, *, point: Any, gate: nn.Module | None) -> None:  # noqa: ARG001
    flat = hidden.reshape(-1, hidden.shape[-1])
    tokens = torch.arange(len(flat), device=hidden.device)
    weights = flat.new_ones(len(flat)) if gate is None else gate(flat).sigmoid().squeeze(-1)
    point.ctx[ROUTED] = Routed(tokens, weights, len(flat))


def _hooked_routing(
    site: LayerSites, experts: HookedExperts, points: Mapping[str, Any]
) -> list[NamedHook]:
    mlp = f"blocks.{site.layer}.mlp."
    own = [points[hook_name(MLP(site.layer, e))] for e in range(experts.shape.count)]
    chances: list[Tensor] = []

    def note_weights(weights: Tensor, hook: Any) -> None:  # noqa: ARG001
        chances[:] = [weights]

    def note_indices(indices: Tensor, hook: Any) -> None:  # noqa: ARG001
        weights = chances.pop().gather(-1, indices)
        if experts.normalises:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        router = Router(indices, weights)
        for expert, point in enumerate(own):
            point.ctx[ROUTED] = router.to(expert)

    return [
        (f"{mlp}hook_expert_weights", note_weights),
        (f"{mlp}hook_expert_indices", note_indices),
    ]
