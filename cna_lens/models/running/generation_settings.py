"""What a model comes with for generation: tokens that end answers, and its generation config."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cna_lens.errors import CnaLensWarning, InputError
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.prompts.chats import behind_answer

ALWAYS: Mapping[str, Any] = MappingProxyType(
    {
        "repetition_penalty": 1.0,
        "encoder_repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "encoder_no_repeat_ngram_size": 0,
        "bad_words_ids": None,
        "sequence_bias": None,
        "min_length": 0,
        "min_new_tokens": 0,
        "forced_bos_token_id": None,
        "forced_eos_token_id": None,
        "exponential_decay_length_penalty": None,
        "guidance_scale": 1.0,
        "watermarking_config": None,
        "stop_strings": None,
        "num_beams": 1,
    }
)
"""Settings by which Hugging Face's `generate` changes answers; with these values it does not."""

SAMPLING: Mapping[str, Any] = MappingProxyType(
    {
        "top_k": 0,
        "top_p": 1.0,
        "min_p": None,
        "top_h": None,
        "typical_p": 1.0,
        "epsilon_cutoff": 0.0,
        "eta_cutoff": 0.0,
    }
)
"""The same for settings that change sampled answers only."""


@dataclass(frozen=True)
class Forbidden:
    """Tokens that an answer may not contain.

    Attributes:
        anywhere: `suppress_tokens` of the generation config.
        at_first: `begin_suppress_tokens`, which forbids them as the first token only.
    """

    anywhere: tuple[int, ...] = ()
    at_first: tuple[int, ...] = ()

    @classmethod
    def of(cls, model: HookedModel) -> Forbidden:
        """Read the generation config of a model; a HookedTransformer has none."""
        settings = generation_config(model)
        return cls(
            _tokens(getattr(settings, "suppress_tokens", None)),
            _tokens(getattr(settings, "begin_suppress_tokens", None)),
        )

    def removed_from(
        self, logits: Float[Tensor, "batch d_vocab"], step: int
    ) -> Float[Tensor, "batch d_vocab"]:
        """Set the logits of forbidden tokens to -inf; step 0 chooses the first token."""
        tokens = {*self.anywhere, *(() if step else self.at_first)}
        # Like Hugging Face, leave out what is no token: some configs hold -1.
        ids = [token for token in tokens if 0 <= token < logits.shape[-1]]
        if not ids:
            return logits
        return logits.index_fill(-1, torch.tensor(ids, device=logits.device), -torch.inf)


def generation_config(model: HookedModel) -> Any:
    """The generation config of the Hugging Face model inside a bridge; None without one."""
    return getattr(getattr(model, "original_model", None), "generation_config", None)


def end_of_turn_ids(model: HookedModel) -> frozenset[int]:
    """Collect the tokens that end an answer: of the tokenizer, the model and the chat template."""
    tokenizer = model.tokenizer
    settings = generation_config(model)
    found: set[int] = set()
    for ids in (
        getattr(tokenizer, "eos_token_id", None),
        getattr(settings, "eos_token_id", None),
    ):
        found.update(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
    return frozenset(found | _template_end(model))


def _template_end(model: HookedModel) -> set[int]:
    """Find the special token that the chat template puts right after an answer."""
    tokenizer = model.tokenizer
    if getattr(tokenizer, "chat_template", None) is None:
        return set()
    try:
        behind = behind_answer(tokenizer, model_name(model))
    except InputError:
        # Prompts that need no template can be answered all the same; others have been refused.
        return set()
    ids: list[int] = tokenizer(behind, add_special_tokens=False)["input_ids"]
    return {token for token in ids[:1] if token in tokenizer.all_special_ids}


_named: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


def warn_of_settings_not_obeyed(
    model: HookedModel, *, sampling: bool, top_p: float, stacklevel: int
) -> None:
    """Name the settings that Hugging Face's `generate` obeys and ours does not, once for a model.

    Warns:
        CnaLensWarning: there are such settings.
    """
    settings = generation_config(model)
    if settings is None:
        return
    default: Any = type(settings)()
    relevant = {**ALWAYS, **SAMPLING} if sampling else ALWAYS
    changed = {
        name: value
        for name, neutral in relevant.items()
        if (value := getattr(settings, name, None)) not in (None, neutral)
        and value != getattr(default, name, None)
        and not (name == "top_p" and value == top_p)
    }
    named = _named.setdefault(cast("nn.Module", model), set())
    if new := changed.keys() - named:
        named.update(new)
        listed = ", ".join(f"{name}={changed[name]!r}" for name in changed if name in new)
        warnings.warn(
            f"the generation config of {model_name(model)} sets {listed}, which Hugging Face's "
            "generate obeys and cna_lens does not: answers differ from its answers; to accept "
            "that, set these to None in model.original_model.generation_config",
            CnaLensWarning,
            stacklevel=stacklevel + 1,
        )


def _tokens(given: int | Sequence[int] | Tensor | None) -> tuple[int, ...]:
    if given is None:
        return ()
    return tuple(torch.as_tensor(given).flatten().tolist())
