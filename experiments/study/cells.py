"""Cells: the smallest units of measurement, each finished or not, and never half."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from experiments.study.settings import Study, Subject
from experiments.study.sources import Sources, texts_hash

Method = Literal["unsteered", "scale", "set_to_mean", "caa"]


@dataclass(frozen=True)
class Discovery:
    """How a circuit is found.

    Attributes:
        prompts: the prompt set.
        ranking: the name of a ranking.
        sign: the scores that count: "abs", "positive" or "negative".
        fraction: the circuit's share of all neurons, or k.
        k: its number of neurons.
        universal: when universal neurons are excluded.
        chat: put prompts into the chat template, where there is one.
        control: replace it by random neurons of the same layers, or also of like magnitude.
    """

    prompts: str
    ranking: str = "contrast"
    sign: str = "abs"
    fraction: float | None = None
    k: int | None = None
    universal: str = "before"
    chat: bool = True
    control: Literal["layer", "magnitude"] | None = None

    @property
    def template(self) -> Literal["auto", False]:
        """The library's option for the chat template."""
        return "auto" if self.chat else False


@dataclass(frozen=True)
class Steering:
    """How the model is steered.

    Attributes:
        method: not at all; by scaling a circuit's activations; by setting them to their means over
            the negative prompts; or by contrastive activation addition.
        discovery: how the circuit, or the vectors, are found.
        multiplier: at strength 1, for "scale".
        caa_sign: whether vectors are taken away or added.
        positions: at which tokens.
    """

    method: Method = "unsteered"
    discovery: Discovery | None = None
    multiplier: float = 0.0
    caa_sign: str = "subtract"
    positions: str = "all"


UNSTEERED = Steering()


@dataclass(frozen=True)
class Cell:
    """One measurement; two cells are the same if all of their fields are.

    Attributes:
        measure: its name in `measures.MEASURES`.
        model: its name or folder as `load_model` takes it, before it is located.
        dtype: the model's precision.
        steering: how the model is steered.
        strength: from 0 to 1.
        seed: of random controls and random rankings.
        prompts: the name of the prompt set.
        limit: at most so many of its prompts, spread over the set.
        block: the number of the block of these prompts.
        prompts_sha256: hash of the texts in the block, so that changed prompts make other cells.
    """

    measure: str
    model: str
    dtype: str
    steering: Steering = UNSTEERED
    strength: float = 0.0
    seed: int = 0
    prompts: str = ""
    limit: int | None = None
    block: int = 0
    prompts_sha256: str = ""

    @property
    def key(self) -> str:
        """Its key in the journal."""
        return hashlib.sha256(json.dumps(self.record(), sort_keys=True).encode()).hexdigest()[:24]

    def record(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def __str__(self) -> str:
        """One useful line."""
        found = self.steering.discovery
        parts = [self.measure, self.model]
        if self.steering.method != "unsteered":
            parts.append(f"{self.steering.method} {self.strength:g}")
        if found is not None and self.steering.method == "caa":
            parts.append(f"{self.steering.caa_sign} {found.prompts}")
        elif found is not None:
            size = f"k={found.k}" if found.fraction is None else f"{found.fraction:.2%}"
            parts.append(
                " ".join(
                    filter(None, [found.prompts, found.ranking, found.sign, size, found.control])
                )
            )
        if self.prompts:
            parts.append(f"{self.prompts} block {self.block}")
        return ", ".join(parts)


def blocks_of(prompts: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Consecutive blocks of at most `size` prompts.

    >>> blocks_of("abcde", 2)
    [('a', 'b'), ('c', 'd'), ('e',)]
    """
    return [tuple(prompts[start : start + size]) for start in range(0, len(prompts), size)]


def asked(
    study: Study,
    sources: Sources,
    measure: str,
    subject: Subject,
    steering: Steering = UNSTEERED,
    strength: float = 1.0,
    *,
    seed: int = 0,
    limit: int | None = None,
) -> list[Cell]:
    """A cell for each block of harmful requests; at strength 0 that of the unsteered model.

    Args:
        study: the settings.
        sources: where the requests come from.
        measure: "answers", "log_odds", "judged" or "shown".
        subject: the model.
        steering: how it is steered.
        strength: from 0 to 1.
        seed: of random controls and rankings.
        limit: ask at most so many; the study's limit by default.
    """
    limit = study.limit if limit is None else limit
    if strength == 0 or steering == UNSTEERED:
        steering, strength, seed = UNSTEERED, 0.0, 0
    texts = sources.harmful_requests(study.evaluation, limit)
    return [
        Cell(
            measure=measure,
            model=subject.source,
            dtype=subject.pair.dtype,
            steering=steering,
            strength=strength,
            seed=seed,
            prompts=study.evaluation,
            limit=limit,
            block=number,
            prompts_sha256=texts_hash(block),
        )
        for number, block in enumerate(blocks_of(texts, study.block_size))
    ]


def once(measure: str, subject: Subject, steering: Steering, strength: float = 0.0) -> Cell:
    """A cell without prompts of the evaluation set.

    Args:
        measure: "circuit", "localization", "stability" or "capability".
        subject: the model.
        steering: how it is steered; a circuit is that of its discovery.
        strength: from 0 to 1.
    """
    return Cell(measure, subject.source, subject.pair.dtype, steering, strength)


def block_texts(study: Study, sources: Sources, cell: Cell) -> tuple[str, ...]:
    """The requests of a cell."""
    texts = sources.harmful_requests(cell.prompts, cell.limit)
    return blocks_of(texts, study.block_size)[cell.block]
