"""Gradients with respect to each neuron's activation, at one token or at all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from cna_lens.discovery.activations.reader import Reader
from cna_lens.errors import ActivationError, ModelError
from cna_lens.metrics.first_token import Values
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.inside.sites import mlp_hook_names
from cna_lens.models.prompts.encoding import TokenIds, pad_token_id
from cna_lens.models.running.batching import pad
from cna_lens.models.running.decoding import can_be_joined
from cna_lens.models.running.forward import (
    SharedPrefix,
    forward_logits,
    forward_with_cache,
    sliding_window,
)
from cna_lens.models.running.memory import gradient_token_budget, run_in_batches
from cna_lens.models.running.positions import needs_whole_prompts, prompt_lengths
from cna_lens.models.trial.trial import tried

Result = TypeVar("Result")
NamedHook = tuple[str, Callable[..., Any]]


class Gradients(NamedTuple):
    """Activations and gradients: a layer's at all tokens."""

    activations: Float[Tensor, "batch pos d_mlp"]
    gradients: Float[Tensor, "batch pos d_mlp"]


class MetricGradients(NamedTuple):
    """A metric of each prompt; all neurons' activations and gradients at the token to read."""

    activations: Float[Tensor, "prompt neuron"]
    gradients: Float[Tensor, "prompt neuron"]
    values: Float[Tensor, " prompt"]


@dataclass(frozen=True)
class GradientBatch:
    """A right-padded batch, that can be run forward and backward again and again.

    Attributes:
        model: a TransformerBridge or HookedTransformer.
        prompts: the places of the batch's prompts among all of them.
        ids: token ids without the shared prefix.
        mask: 1 on real tokens, over prefix and ids.
        prefix: what all prompts begin with.
        n_prompt: the number of tokens of each row that are the prompt, with the prefix.
        read: where each row's token to read stands among the ids.
        last: where each row's last token stands among the ids.
    """

    model: HookedModel
    prompts: list[int]
    ids: Int64[Tensor, "batch pos"]
    mask: Int64[Tensor, "batch whole_pos"]
    prefix: SharedPrefix
    n_prompt: list[int]
    read: Int64[Tensor, " batch"]
    last: Int64[Tensor, " batch"]

    def run(
        self,
        metric: Values,
        hooks: Sequence[NamedHook] = (),
        layers: Sequence[int] | None = None,
    ) -> MetricGradients:
        """Activations at the token to read, the metric, and its gradients with respect to them.

        Args:
            metric: from the logits after each row's last token.
            hooks: forward hooks that run before activations are read.
            layers: read these layers only, all that have an MLP by default.

        Raises:
            ActivationError: a gradient is infinite or not a number.
            ModelError: a layer's activations cannot be differentiated.
        """
        rows = torch.arange(len(self.ids), device=self.ids.device)
        first = int(self.last.min())
        kept: list[Tensor] = []

        def total(logits: Float[Tensor, "batch kept_pos d_vocab"]) -> Float[Tensor, ""]:
            at_last = logits[rows.to(logits.device), (self.last - first).to(logits.device)]
            values = metric(at_last, self.prompts)
            kept.append(values.detach().cpu().double())
            return values.sum()

        found = self.at_all_tokens(total, first, hooks, layers)
        activations, gradients = (
            torch.cat([self._at_read(layer) for layer in side], dim=-1)
            for side in zip(*found, strict=True)
        )
        return MetricGradients(activations, gradients, kept[-1])

    def at_all_tokens(
        self,
        total: Callable[[Float[Tensor, "batch kept_pos d_vocab"]], Float[Tensor, ""]],
        first: int,
        hooks: Sequence[NamedHook] = (),
        layers: Sequence[int] | None = None,
    ) -> Sequence[Gradients]:
        """Activations at all tokens, and gradients with respect to them, layer by layer.

        The model's parameters and their gradients are neither touched nor asked for: what is
        differentiated begins at the lowest of the layers. Uses TransformerLens's
        `cache_activation_and_gradient`, which adds and removes the hooks.

        Args:
            total: a number from the logits. Where it is a sum over rows, each row keeps its own
                gradient, since rows do not depend on each other.
            first: the first position among the ids of which there are logits.
            hooks: forward hooks that run before activations are read.
            layers: read these layers only, all that have an MLP by default.

        Raises:
            ActivationError: a gradient is infinite or not a number.
            ModelError: a layer's activations cannot be differentiated.
        """
        # Not at the top: loading all of TransformerLens takes seconds.
        from transformer_lens.tools.analysis.attribution_patching import (
            cache_activation_and_gradient,
        )

        all_names = mlp_hook_names(self.model)
        chosen = range(len(all_names)) if layers is None else layers
        names = {layer: name for layer in chosen if (name := all_names[layer]) is not None}
        model = _Differentiable(self, (_leaf(self.model, min(names)), *hooks), first)
        with (
            torch.enable_grad(),
            prompt_lengths(self.n_prompt),
            warnings.catch_warnings(),
        ):
            # Norms are computed by the bridge itself where a hook holds their scale fixed.
            warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
            cached = cache_activation_and_gradient(model, self.ids, total, list(names.values()))
        found: list[Gradients] = []
        for name in names.values():
            activations, gradients = cached.activations.get(name), cached.gradients.get(name)
            if activations is None or gradients is None:
                raise ModelError(f"the metric has no gradient at {name}")
            if not bool(torch.isfinite(gradients).all()):
                raise ActivationError(
                    f"{model_name(self.model)} gives infinite or not-a-number gradients; load it "
                    "in float32 or bfloat16, and check its weights"
                )
            found.append(Gradients(activations, gradients))
        return found

    def from_read(self) -> list[GradientBatch]:
        """The batch in parts, whose rows begin at the token to read.

        A change at this token reaches no token before it, so the keys and values of those are
        computed once, without a gradient. Where padding before this token would change a row, rows
        that read at other places are other parts. A batch of a model that cannot continue from a
        cache is its own only part.
        """
        window = sliding_window(self.model)
        if (
            needs_whole_prompts()
            or tried(self.model).no_sharing
            or (window is not None and window < self.mask.shape[1])
        ):
            return [self]
        places = self.read.tolist()
        # A row of padding alone would see no token, which not all attention can compute.
        sees_tokens = self.prefix.length + min(places) > 0
        if can_be_joined(self.model) and sees_tokens:
            return [self._from_read(range(len(self.ids)))]
        return [
            self._from_read([row for row, own in enumerate(places) if own == place])
            for place in sorted(set(places))
        ]

    def _from_read(self, rows: Sequence[int]) -> GradientBatch:
        read, last = (side[list(rows)] for side in (self.read, self.last))
        n_prompt = [self.n_prompt[row] for row in rows]
        of_row = [tuple(self.ids[row].tolist()) for row in rows]
        before = [ids[:place] for ids, place in zip(of_row, read.tolist(), strict=True)]
        behind = [
            ids[place : end + 1]
            for ids, place, end in zip(of_row, read.tolist(), last.tolist(), strict=True)
        ]
        prefix, seen = self.prefix, self.mask[list(rows), : self.prefix.length]
        if any(before):
            ids, seen = self._padded(before, seen)
            with torch.no_grad(), prompt_lengths(n_prompt):
                _, cache = forward_with_cache(self.model, ids, seen, prefix.expand(len(rows)))
            prefix = SharedPrefix(seen.shape[1], cache)
        ids, mask = self._padded(behind, seen)
        return GradientBatch(
            model=self.model,
            prompts=[self.prompts[row] for row in rows],
            ids=ids,
            mask=mask,
            prefix=prefix,
            n_prompt=n_prompt,
            read=torch.zeros_like(read),
            last=last - read,
        )

    def _padded(
        self,
        tokens: Sequence[TokenIds],
        seen: Int64[Tensor, "batch seen_pos"],
    ) -> tuple[Int64[Tensor, "batch pos"], Int64[Tensor, "batch whole_pos"]]:
        ids, mask = pad(tokens, pad_token_id(self.model))
        return ids.to(self.ids), torch.cat([seen, mask.to(seen)], dim=1)

    def repeated(self, times: int) -> GradientBatch:
        """The batch with each row several times, one after the other."""
        return replace(
            self,
            prompts=[prompt for prompt in self.prompts for _ in range(times)],
            ids=self.ids.repeat_interleave(times, dim=0),
            mask=self.mask.repeat_interleave(times, dim=0),
            n_prompt=[length for length in self.n_prompt for _ in range(times)],
            read=self.read.repeat_interleave(times),
            last=self.last.repeat_interleave(times),
        )

    def _at_read(self, tensor: Float[Tensor, "batch pos d_mlp"]) -> Float64[Tensor, "prompt d_mlp"]:
        rows = torch.arange(len(self.ids), device=tensor.device)
        return tensor[rows, self.read.to(tensor.device)].cpu().double()


def over_batches(
    reader: Reader,
    prompts: Sequence[TokenIds],
    run: Callable[[GradientBatch], Result],
    desc: str,
    n_prompt: Sequence[int] | None = None,
) -> Iterator[Result]:
    """Yield the result of `run` for each batch of the prompts.

    Batches hold prompts of similar length, within the memory of a backward pass; a batch that does
    not fit is halved.

    Args:
        reader: the model, the token to read, and how to batch.
        prompts: token ids.
        run: called with each batch.
        desc: label of the progress bar.
        n_prompt: how many tokens of each are the prompt, where an answer follows; the prompt's last
            token is then not shared. By default all of them.

    Raises:
        InputError: the position is outside a prompt.
    """
    model, places = reader.model, reader.places(prompts)
    lengths = list(map(len, prompts)) if n_prompt is None else n_prompt
    at_most = min(places) if n_prompt is None else min(*places, min(lengths) - 1)
    # Tensors made in inference mode cannot be differentiated through.
    with torch.inference_mode(False):
        prefix = reader.prefix(prompts, at_most)

    @torch.inference_mode(False)
    def run_batch(rows: list[int]) -> Result:
        ids, mask = prefix.pad(model, [prompts[row] for row in rows])
        batch = GradientBatch(
            model=model,
            prompts=rows,
            ids=ids,
            mask=mask,
            prefix=prefix,
            n_prompt=[lengths[row] for row in rows],
            read=torch.tensor([places[row] - prefix.length for row in rows]),
            last=torch.tensor([len(prompts[row]) - 1 - prefix.length for row in rows]),
        )
        return run(batch)

    for _, result in run_in_batches(
        model,
        [len(ids) - prefix.length for ids in prompts],
        run_batch,
        desc=desc,
        batch_size=reader.batch_size,
        progress=reader.progress,
        prefix_length=prefix.length,
        budget=gradient_token_budget,
    ):
        yield result


@dataclass(frozen=True)
class _Differentiable:
    """A batch's model as `cache_activation_and_gradient` calls one: by its tokens alone."""

    batch: GradientBatch
    own_hooks: tuple[NamedHook, ...]
    first: int

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        return self.batch.model.hook_dict

    def hooks(
        self, fwd_hooks: Sequence[NamedHook] = (), bwd_hooks: Sequence[NamedHook] = ()
    ) -> AbstractContextManager[Any]:
        return self.batch.model.hooks(
            fwd_hooks=[*self.own_hooks, *fwd_hooks], bwd_hooks=list(bwd_hooks)
        )

    def __call__(self, ids: Int64[Tensor, "batch pos"]) -> Float[Tensor, "batch kept_pos d_vocab"]:
        batch = self.batch
        return forward_logits(
            batch.model, ids, batch.mask, batch.prefix.read_only(), first=self.first
        )


def _leaf(model: HookedModel, layer: int) -> NamedHook:
    """Begin the graph below a layer: parameters may then be frozen, and need not be unfrozen."""
    name = f"blocks.{layer}.hook_resid_pre"
    if name not in model.hook_dict:
        raise ModelError(
            f"{model_name(model)} has no hook point {name}, below which a gradient could begin; "
            "use a ranking without gradients"
        )
    return name, lambda residual, hook: residual.detach().requires_grad_()  # noqa: ARG005
