"""The two prompt sets of a contrast: encoded alike, and read as one stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from cna_lens.results.provenance import Source

R = TypeVar("R", bound=Reducer)


class EncodedSets(NamedTuple):
    """The token ids of the prompts that show a behaviour, and of those that do not."""

    positive: EncodedPrompts
    negative: EncodedPrompts


def encode_sets(
    model: HookedModel, positive: Sequence[Prompt], negative: Sequence[Prompt], chat: Chat
) -> EncodedSets:
    """Turn both sets into token ids.

    Raises:
        InputError: a prompt cannot be used; the message says of which set.

    Warns:
        CnaLensWarning: a prompt stands in one set twice, or in both.
    """
    sets = EncodedSets(
        encode(model, positive, chat=chat, name="positive"),
        encode(model, negative, chat=chat, name="negative"),
    )
    warn_about_duplicates(*sets)
    return sets


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
