"""One step of generation: logits from the cache that fits the model, and the next tokens."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cna_lens.errors import InputError, ModelError
from cna_lens.models.hooked_model import (
    HookedModel,
    HooksSeen,
    input_device,
    is_bridge,
    model_name,
)
from cna_lens.models.prompts.encoding import TokenIds
from cna_lens.models.running.batching import is_whole
from cna_lens.models.running.forward import SharedPrefix, forward_with_cache, sliding_window
from cna_lens.models.running.generation_settings import Forbidden
from cna_lens.models.trial.direct import direct_pass
from cna_lens.models.trial.kv_cache import joined, new_cache, widened
from cna_lens.models.trial.trial import tried

Logits = Float[Tensor, "batch d_vocab"]


@runtime_checkable
class Decoder(Protocol):
    """The state of a batch of answers while they are generated."""

    def start(self, ids: Int64[Tensor, "batch pos"], mask: Int64[Tensor, "batch pos"]) -> Logits:
        """Read left-padded prompts, without a shared prefix; further calls add more rows."""
        ...

    def step(self, tokens: Int64[Tensor, " batch"]) -> Logits:
        """Read one more token in each row."""
        ...

    def keep(self, rows: Int64[Tensor, " kept"]) -> None:
        """Continue with these rows only."""
        ...


def decoder_for(model: HookedModel, prefix: SharedPrefix) -> Decoder:
    """Choose the fastest decoder that works on the model."""
    cache = tried(model).cache
    if not is_bridge(model):
        return _HookedTransformerDecoder(model)
    if cache is not None:
        return _BridgeDecoder(model, prefix)
    return _RepeatingDecoder(model)


def needs_equal_lengths(model: HookedModel) -> bool:
    """Whether all prompts of a batch need one length, because the model would read padding."""
    return tried(model).cache is None


def can_be_joined(model: HookedModel) -> bool:
    """Whether prompts can be read in several passes, and answered in one batch."""
    # A window counts the tokens that it has seen, and so the padding.
    return tried(model).no_sharing is None and sliding_window(model) is None


class _BridgeDecoder:
    """Keeps keys and values in a Hugging Face cache, which begins with the shared prefix.

    Passes go past the bridge where that gives the same logits with the hooks in force.
    """

    def __init__(self, model: HookedModel, prefix: SharedPrefix) -> None:
        self.model = model
        self.prefix = prefix
        self.started: list[tuple[Tensor, Any]] = []
        self.hooks = HooksSeen(model)
        self.direct = direct_pass(model)
        self.mask = torch.empty(0)
        self.cache: Any = None

    def start(self, ids: Int64[Tensor, "batch pos"], mask: Int64[Tensor, "batch pos"]) -> Logits:
        mask = self.prefix.mask(mask)
        cache = self.prefix.expand(len(ids)) or new_cache(self.model)
        self.started.append((mask, cache))
        return self._read(ids, mask, cache)

    def step(self, tokens: Int64[Tensor, " batch"]) -> Logits:
        self._join()
        self.mask = torch.cat([self.mask, self.mask.new_ones((len(tokens), 1))], dim=1)
        return self._read(tokens[:, None], self.mask, self.cache)

    def _join(self) -> None:
        """Make one batch of all rows, with padding between the prefix and shorter prompts."""
        if not self.started:
            return
        masks, caches = zip(*self.started, strict=True)
        self.started = []
        longest, at = max(mask.shape[1] for mask in masks), self.prefix.length
        self.mask = torch.cat([widened(mask, longest, at, dim=1) for mask in masks])
        self.cache = caches[0] if len(caches) == 1 else joined(caches, at)

    def _read(
        self,
        ids: Int64[Tensor, "batch pos"],
        mask: Int64[Tensor, "batch whole_pos"],
        cache: Any,
    ) -> Logits:
        # Steering may begin or end between two tokens of `stream`.
        if self.hooks.changed():
            self.direct = direct_pass(self.model)
        if self.direct is not None:
            return self.direct.last_logits(ids, mask, cache)
        return forward_with_cache(self.model, ids, mask, cache)[0]

    def keep(self, rows: Int64[Tensor, " kept"]) -> None:
        self._join()
        self.mask = self.mask[rows]
        self.cache.batch_select_indices(rows)


class _HookedTransformerDecoder:
    """Keeps keys and values in TransformerLens's own cache; prompts have one length."""

    def __init__(self, model: HookedModel) -> None:
        self.model = cast("Any", model)
        self.cache: Any = None

    def start(self, ids: Int64[Tensor, "batch pos"], mask: Int64[Tensor, "batch pos"]) -> Logits:  # noqa: ARG002
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        self.cache = TransformerLensKeyValueCache.init_cache(
            self.model.cfg, input_device(self.model), len(ids)
        )
        return self._read(ids)

    def step(self, tokens: Int64[Tensor, " batch"]) -> Logits:
        return self._read(tokens[:, None])

    def keep(self, rows: Int64[Tensor, " kept"]) -> None:
        for entry in self.cache.entries:
            entry.past_keys = entry.past_keys[rows.to(entry.past_keys.device)]
            entry.past_values = entry.past_values[rows.to(entry.past_values.device)]
        attended = self.cache.previous_attention_mask
        self.cache.previous_attention_mask = attended[rows.to(attended.device)]

    def _read(self, ids: Int64[Tensor, "batch pos"]) -> Logits:
        return self.model(ids, return_type="logits", past_kv_cache=self.cache)[:, -1]


class _RepeatingDecoder:
    """Computes the whole sequence again for each token, where no cache works."""

    def __init__(self, model: HookedModel) -> None:
        self.model = model
        self.ids = torch.empty(0)

    def start(self, ids: Int64[Tensor, "batch pos"], mask: Int64[Tensor, "batch pos"]) -> Logits:  # noqa: ARG002
        self.ids = ids
        return self._read()

    def step(self, tokens: Int64[Tensor, " batch"]) -> Logits:
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        return self._read()

    def keep(self, rows: Int64[Tensor, " kept"]) -> None:
        self.ids = self.ids[rows]

    def _read(self) -> Logits:
        model = cast("nn.Module", self.model)
        return model(self.ids, return_type="logits", use_cache=False)[:, -1]


def seeds_of(encoded: Sequence[TokenIds], seed: int) -> list[int]:
    """Give each prompt a seed that depends on its tokens, and on how often it occurred before.

    Raises:
        InputError: `seed` is not a whole number.
    """
    if not is_whole(seed):
        raise InputError(f"seed is {seed!r}, expected a whole number")
    occurrences: Counter[TokenIds] = Counter()
    seeds: list[int] = []
    for ids in encoded:
        key = json.dumps([int(seed), occurrences[ids], ids])
        seeds.append(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7]))
        occurrences[ids] += 1
    return seeds


class Chooser:
    """Takes the most likely token, or samples one with a separate generator for each prompt."""

    def __init__(
        self, model: HookedModel, temperature: float, seeds: Sequence[int], top_p: float = 1.0
    ) -> None:
        """Take the temperature, 0 for the most likely token, and a seed for each prompt.

        Samples are from the fewest tokens that have the probability `top_p` together.
        """
        self.model = model
        self.temperature = temperature
        self.likeliest = _likeliest(top_p)
        self.seeds = seeds
        self.forbidden = Forbidden.of(model)
        self.generators: dict[int, torch.Generator] = {}

    def __call__(
        self, logits: Float[Tensor, "batch d_vocab"], rows: Sequence[int], step: int
    ) -> list[int]:
        """Choose the next token of each row; `rows` are the places of the prompts.

        Raises:
            ModelError: the largest logit of a row is not a finite number.
        """
        logits = self.forbidden.removed_from(logits, step)
        likeliest = logits.argmax(-1, keepdim=True)
        # NaN counts as the largest, and a single infinity leaves no probabilities.
        largest = logits.gather(-1, likeliest)
        if not bool(largest.isfinite().all()):
            raise self._no_choice(largest)
        if self.temperature == 0:
            return likeliest.squeeze(-1).tolist()
        # Without the largest logit, none overflows at a temperature near 0.
        scaled = (logits.double() - largest.double()) / self.temperature
        if self.likeliest is not None:
            # The ids so far, which the warper takes, do not matter to it.
            scaled = self.likeliest(torch.empty(0, dtype=torch.long), scaled)
        chances = scaled.softmax(-1).cumsum(-1).cpu()
        draws = torch.cat([self._draw(row, step) for row in rows])
        chosen = torch.searchsorted(chances, draws[:, None] * chances[:, -1:]).squeeze(1)
        return chosen.clamp(max=logits.shape[-1] - 1).tolist()

    def _no_choice(self, largest: Float[Tensor, "batch 1"]) -> ModelError:
        value = largest[~largest.isfinite()].tolist()[0]
        name = model_name(self.model)
        if value == -torch.inf:
            return ModelError(
                f"{name} gives every token the logit -inf, so that none can be chosen; check its "
                "weights, hooks, and suppress_tokens of its generation config"
            )
        said = "logits that are not a number" if math.isnan(value) else "infinite logits"
        return ModelError(
            f"{name} gives {said}, from which no token can be chosen; steer less, load it in "
            "float32 or bfloat16, and check its weights"
        )

    def _draw(self, row: int, step: int) -> Float[Tensor, " 1"]:
        if step == 0:
            self.generators[row] = torch.Generator().manual_seed(self.seeds[row])
        return torch.rand(1, generator=self.generators[row], dtype=torch.float64)


def _likeliest(top_p: float) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return what takes all but the likeliest tokens out of logits; None if all are kept."""
    if top_p == 1:
        return None
    from transformers import TopPLogitsWarper

    return cast("Callable[[Tensor, Tensor], Tensor]", TopPLogitsWarper(top_p))
