"""The trial of a model, once before its first use: observed behaviour counts, not names.

A few short forward passes test whether the bridge agrees with its Hugging Face model, whether
`hook_post` is the input of the down projection, and whether the model can continue from a cache.
All other modules ask here about a model's abilities.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cna_lens.errors import CnaLensWarning, ModelError
from cna_lens.models.hooked_model import (
    HookedModel,
    check_model,
    input_device,
    is_bridge,
    model_name,
    without_hooks,
)
from cna_lens.models.inside.experts import unwrapped
from cna_lens.models.inside.paged_weights import paged_weights
from cna_lens.models.inside.projections import projection_module
from cna_lens.models.inside.sites import neuron_sites
from cna_lens.models.trial.caching import PREFIX, deprecation_raised, not_held, ways_to_cache
from cna_lens.models.trial.kv_cache import WAYS_TO_CACHE, Keyword, hand_cache_on, new_cache
from cna_lens.models.trial.logits import bridge_logits, plain_name, said, same_logits, tolerance
from cna_lens.models.trial.plain_model import PlainModel, relative_error
from cna_lens.models.trial.tree_mask import keeps_logits, keeps_logits_and_packs
from cna_lens.results.neurons import MLP
from cna_lens.results.provenance import library_versions

PROMPT = (11, 7, 23, 5, 17, 3)
"""Any tokens serve; so few take less time than reading one prompt set."""


@dataclass(frozen=True)
class Trial:
    """The abilities that a model showed.

    Attributes:
        cache: the argument through which its forward takes a cache; None where no cache works.
        no_cache: why it cannot continue from a cache; None where it can.
        no_sharing: why several prompts cannot continue from one prefix; None where they can.
        no_packing: why it cannot run several prompts in one row of tokens; None where it can.
        keeps_logits: whether it can compute the logits of chosen positions alone.
        reads_mask: whether a mask without padding leaves its logits unchanged.
    """

    cache: Keyword | None
    no_cache: str | None
    no_sharing: str | None
    no_packing: str | None
    keeps_logits: bool
    reads_mask: bool


_log = logging.getLogger(__name__)

_trials: WeakKeyDictionary[nn.Module, Trial] = WeakKeyDictionary()


def tried(model: HookedModel) -> Trial:
    """Try a model out on the first call, and give its abilities.

    Hooks on the model are off during the trial. The model does not change, except for the
    translation of `kv_cache.hand_cache_on` where its cache works in no other way.

    Raises:
        ModelError: the bridge disagrees with its Hugging Face model, or a hook point differs from
            the input of the down projection.

    Warns:
        CnaLensWarning: the model is slower, because a KV cache or a shared prefix does not work on
            it; or the bridge or a hook point cannot be compared.
    """
    module = cast("nn.Module", model)
    if module not in _trials:
        check_model(model)
        # Before the first pass, which would read all weights without it.
        paged_weights(model)
        with without_hooks(model), plainly(model):
            trial = _try_bridge(model) if is_bridge(model) else _try_hooked_transformer(model)
        _trials[module] = trial
        if is_bridge(model) and not trial.keeps_logits:
            _log.info("%s: logits are computed for every position", model_name(model))
        if slow := what_is_slower(trial):
            warnings.warn(
                f"{model_name(model)}: {slow}; {_mend(model)}", CnaLensWarning, stacklevel=3
            )
    return _trials[module]


def obstacle_by_shapes(model: HookedModel) -> str | None:
    """Say why a model without numbers would not keep a cache; None where shapes show no reason.

    For a bridge made under torch's `FakeTensorMode`, which must be active.
    """
    ids = torch.zeros((1, PREFIX), dtype=torch.long)
    reason: str | None = None
    for keyword, translated in WAYS_TO_CACHE:
        if translated:
            hand_cache_on(model)
        try:
            with torch.no_grad(), deprecation_raised(keyword):
                cache = new_cache(model)
                bridge_logits(model, ids, use_cache=True, **{keyword: cache})
                reason = not_held(model, cache, PREFIX)
        except FutureWarning:
            continue
        # Without numbers, a model may fail for reasons of its own.
        except Exception:
            return None
        if reason is None:
            return None
    return reason


def what_is_slower(trial: Trial) -> str | None:
    """Say what is slow on a model, and why; None where nothing is."""
    if trial.no_cache:
        return without_a_cache(trial.no_cache)
    if trial.no_sharing:
        return (
            f"{trial.no_sharing}, so the common beginning of prompts is computed for each of "
            "them: discovery is about twice slower"
        )
    return None


def without_a_cache(reason: str) -> str:
    """State the cost of a model without a cache."""
    return (
        f"{reason}, so generation computes the whole text again for each token, about 20 times "
        "slower, and discovery computes the common beginning of prompts for each of them, about "
        "twice slower"
    )


def _mend(model: HookedModel) -> str:
    if not is_bridge(model):
        return "load it as a TransformerBridge"
    installed = ", ".join(f"{name} {version}" for name, version in library_versions())
    return f"docs/compatibility.md lists versions that were tried (installed: {installed})"


@contextmanager
def plainly(model: HookedModel) -> Generator[None]:
    """Compute without gradients, and in the precision of the weights."""
    device = input_device(model).type
    mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    with torch.no_grad(), torch.autocast(device, enabled=False) if mixed else nullcontext():
        yield


def _try_bridge(model: HookedModel) -> Trial:
    ids = trial_prompt(model)
    try:
        whole, reads_mask = _compared(model, ids)
    except (AttributeError, TypeError, KeyError) as error:
        raise ModelError(
            f"TransformerLens cannot run {model_name(model)} with the versions installed "
            f"({said(error)}); {_mend(model)}"
        ) from error
    if not reads_mask:
        reason = f"{plain_name(model)} misreads the attention mask of a batch"
        return Trial(None, reason, reason, reason, keeps_logits(model, ids), reads_mask)
    keeps, no_packing = keeps_logits_and_packs(model, ids, whole)
    keyword, no_cache, no_sharing = ways_to_cache(model, ids, whole)
    return Trial(keyword, no_cache, no_sharing, no_packing, keeps, reads_mask)


def _try_hooked_transformer(model: HookedModel) -> Trial:
    with _hook_points_checked(model):
        model.forward(trial_prompt(model), return_type="logits")
    reason = f"a {type(model).__name__} takes no Hugging Face cache"
    return Trial(None, None, reason, reason, keeps_logits=False, reads_mask=True)


def trial_prompt(model: HookedModel) -> Int64[Tensor, "1 pos"]:
    """Give a prompt that fits the model's vocabulary and context."""
    vocabulary = int(model.cfg.d_vocab)
    tokens = [token % vocabulary for token in PROMPT[: getattr(model.cfg, "n_ctx", None)]]
    return torch.tensor([tokens], device=input_device(model))


def _compared(model: HookedModel, ids: Tensor) -> tuple[Float[Tensor, "pos d_vocab"], bool]:
    """Compute the bridge's logits, and whether a mask leaves them unchanged.

    Raises:
        ModelError: they differ from the Hugging Face model's, with a mask and without; or a hook
            point differs from the input of the down projection.
    """
    with _hook_points_checked(model):
        masked = bridge_logits(model, ids, attention_mask=torch.ones_like(ids))[0]
    plain = PlainModel.inside(model)
    try:
        with _read_ahead(model, plain):
            expected = plain.logits(ids)[0]
    except torch.OutOfMemoryError:
        raise
    # The bridge may be right even where the model cannot run alone.
    except Exception as error:
        warnings.warn(
            f"{model_name(model)} cannot be compared with the Hugging Face model inside it, which "
            f"does not run alone ({said(error)}); compare the logits of a prompt yourself before "
            "you use it",
            CnaLensWarning,
            stacklevel=5,
        )
        return masked, True
    if same_logits(masked, expected):
        return masked, True
    unmasked = bridge_logits(model, ids)[0]
    if same_logits(unmasked, expected):
        return unmasked, False
    layer = plain.first_layer_that_differs(model, ids, tolerance(expected))
    where = "after the last layer" if layer is None else f"from layer {layer} on"
    raise ModelError(
        f"the TransformerBridge of {model_name(model)} does not compute what its Hugging Face "
        f"model computes: it differs {where}; {_mend(model)}"
    )


def _read_ahead(model: HookedModel, plain: PlainModel) -> AbstractContextManager[None]:
    """Read the weights of the plain model ahead too, where the memory does not hold them."""
    paged = paged_weights(model)
    if paged is None:
        return nullcontext()
    return paged.hooked(plain.copies[unwrapped(block)] for block in cast("Any", model).blocks)


@contextmanager
def _hook_points_checked(model: HookedModel) -> Generator[None]:
    """Require in a forward pass that each `hook_post` is the input of the down projection.

    On a bridge it is compared with the projection's input. A HookedTransformer multiplies with the
    matrix inside its MLP, so there the product is compared with the MLP's output.

    Raises:
        ModelError: they differ.
    """
    try:
        names = {site.layer: site.dense for site in neuron_sites(model) if site.dense is not None}
    except ModelError:
        # A later request for neurons raises this error.
        names: dict[int, str] = {}
    hooked: dict[int, Tensor] = {}
    passed: dict[int, tuple[Tensor, Tensor]] = {}

    def note_hook(activation: Tensor, hook: Any, *, layer: int) -> None:  # noqa: ARG001
        hooked[layer] = activation

    def note_module(_: nn.Module, args: tuple[Any, ...], output: Tensor, *, layer: int) -> None:
        passed[layer] = args[0], output

    modules = {layer: projection_module(model, MLP(layer)) for layer in names}
    with ExitStack() as stack:
        for layer, module in modules.items():
            if isinstance(module, nn.Module):
                note = partial(note_module, layer=layer)
                stack.enter_context(module.register_forward_hook(note))
        hooks = [(name, partial(note_hook, layer=at)) for at, name in names.items()]
        stack.enter_context(model.hooks(hooks))
        yield
    if unseen := sorted(names.keys() - (hooked.keys() & passed.keys())):
        warnings.warn(
            f"{names[unseen[0]]} of {model_name(model)} cannot be compared with the input of the "
            "down projection, which is not called; compare them yourself before you use it",
            CnaLensWarning,
            stacklevel=6,
        )
    for layer in hooked.keys() & passed.keys():
        read, written = passed[layer]
        if is_bridge(model):
            right = _agree(hooked[layer], read)
        else:
            projection = modules[layer]
            fits = hooked[layer].shape[-1] == projection.W_out.shape[0]
            right = fits and _agree(hooked[layer] @ projection.W_out + projection.b_out, written)
        if not right:
            raise ModelError(
                f"{names[layer]} of {model_name(model)} is not the input of layer {layer}'s down "
                f"projection, so its neurons cannot be reached; {_mend(model)}"
            )


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Whether activations agree; some models have all tokens of a batch on one axis."""
    if not bool(torch.isfinite(expected).all()):
        return True
    if found.numel() != expected.numel():
        return False
    return relative_error(found.reshape(expected.shape), expected) <= tolerance(expected)
