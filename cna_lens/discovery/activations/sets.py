"""The two prompt sets of a contrast: encoded alike, and read as one stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from cna_lens.discovery.activations.means import Reducer
from cna_lens.discovery.activations.reader import Reader
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import (
    Chat,
    EncodedPrompts,
    Prompt,
    encode,
    warn_about_duplicates,
)
from cna_lens.models.running.reasoning import behind_reasoning
from cna_lens.results.provenance import Position, Source

R = TypeVar("R", bound=Reducer)


class EncodedSets(NamedTuple):
    """The token ids of the prompts that show a behaviour, and of those that do not."""

    positive: EncodedPrompts
    negative: EncodedPrompts


def encode_sets(
    model: HookedModel,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    chat: Chat,
    position: Position = -1,
) -> EncodedSets:
    """Turn both sets into token ids, with the model's reasoning behind them for "answer".

    Raises:
        InputError: a prompt cannot be used, or its reasoning does not end; the message says of
            which set.

    Warns:
        CnaLensWarning: a prompt stands in one set twice, or in both.
    """
    return encode_sets_and(model, positive, negative, {}, chat, position, stacklevel=4)[0]


def encode_sets_and(
    model: HookedModel,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    also: Mapping[str, Sequence[Prompt]],
    chat: Chat,
    position: Position,
    *,
    stacklevel: int = 3,
) -> tuple[EncodedSets, dict[str, EncodedPrompts]]:
    """Do what `encode_sets` does, for other prompts too, by their name in errors."""
    prompts = {"positive": positive, "negative": negative, **also}
    encoded = {name: encode(model, each, chat=chat, name=name) for name, each in prompts.items()}
    warn_about_duplicates(encoded["positive"], encoded["negative"], stacklevel)
    if position == "answer":
        named = {name: (prompts[name], each) for name, each in encoded.items()}
        encoded = dict(zip(named, behind_reasoning(model, named, chat), strict=True))
    return EncodedSets(encoded.pop("positive"), encoded.pop("negative")), encoded


def read_both(
    reader: Reader,
    sets: EncodedSets,
    reducer: Callable[[Source], R],
    also: Sequence[tuple[EncodedPrompts, Reducer]] = (),
) -> tuple[R, R]:
    """Read both sets in one stream, and return the reducers of the positive and negative prompts.

    Args:
        reader: the model, the token to read, and how to batch.
        sets: the prompts.
        reducer: makes a set's reducer from its source.
        also: other prompts to read in the same stream, with their reducers.
    """
    positive, negative = (reducer(reader.source(prompts)) for prompts in sets)
    reader.read([(sets.positive, positive), (sets.negative, negative), *also])
    return positive, negative
