"""Provenance: where activations came from, and how a circuit was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cna_lens.errors import CircuitFileError
from cna_lens.results.layout import HOOK_SITE


@dataclass(frozen=True)
class PromptRecord:
    """Which prompts were used, without their text: how many, and a hash of their token ids."""

    count: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """Where activations came from; two sets can be contrasted only where all but prompts agree."""

    model: str
    position: int
    prompts: PromptRecord
    template_sha256: str | None = None
    site: str = HOOK_SITE


@dataclass(frozen=True)
class UniversalRecord:
    """The rule by which universal neurons were excluded, and how many there were.

    Attributes:
        n_neurons: universal neurons found or given.
        fraction: the share of all activations that counts as a prompt's top.
        threshold: the share of the prompts on which a neuron must be in the top.
        scope: "model" takes the top over all layers together, "layer" within each.
        by: the top by "magnitude" or by "value".
        applied: "before" the top k is taken, so that the circuit keeps its size, or "after".
        prompts: the diverse prompts, None when the neurons were given by the user.
    """

    n_neurons: int
    fraction: float | None = None
    threshold: float | None = None
    scope: str | None = None
    by: str | None = None
    applied: str = "before"
    prompts: PromptRecord | None = None


@dataclass(frozen=True)
class Provenance:
    """How a circuit was found, as far as it is known; everything a repetition needs but the text.

    Attributes:
        model: the model's name.
        weights_sha256: see `cna_lens.weights_hash`; None unless asked for.
        site: the hook point of each block.
        position: the token read, -1 for the last one.
        template_sha256: hash of the chat template, None where none was used.
        positive: the prompts that show the behaviour.
        negative: the prompts that do not.
        rank: the ranking's name, and its settings where it has any.
        unit: the unit of the scores.
        sign: "abs", "positive" or "negative".
        fraction: share of the model's neurons asked for, those of all experts counted; None where
            k was given.
        k: number of neurons asked for.
        layers: the layers chosen from, None for all.
        max_per_layer: the most neurons taken from one layer, None for any number.
        universal: the universal filter, None where none was applied.
        versions: the versions of the libraries that matter, by name.
    """

    model: str | None = None
    weights_sha256: str | None = None
    site: str = HOOK_SITE
    position: int | None = None
    template_sha256: str | None = None
    positive: PromptRecord | None = None
    negative: PromptRecord | None = None
    rank: str | None = None
    unit: str | None = None
    sign: str | None = None
    fraction: float | None = None
    k: int | None = None
    layers: tuple[int, ...] | None = None
    max_per_layer: int | None = None
    universal: UniversalRecord | None = None
    versions: tuple[tuple[str, str], ...] = ()

    def facts(self) -> list[tuple[str, str]]:
        """What is known, in words."""
        facts = [("model", self.model or "unknown")]
        if self.positive and self.negative:
            count = f"{self.positive.count} positive, {self.negative.count} negative"
            facts.append(("prompts", count))
        if self.rank:
            unit = f" ({self.unit})" if self.unit else ""
            facts.append(("ranking", f"{self.rank}{unit}, sign {self.sign}, token {self.position}"))
        if self.universal:
            excluded = f"{self.universal.n_neurons} neurons excluded"
            facts.append(("universal", f"{excluded}, {self.universal.applied} the top k"))
        if self.weights_sha256:
            facts.append(("weights", self.weights_sha256[:16]))
        return facts

    @classmethod
    def from_record(cls, raw: Mapping[str, Any]) -> Provenance:
        """Restore a provenance from the plain data that `dataclasses.asdict` gives.

        Raises:
            CircuitFileError: it has entries that this version does not know.
        """
        known = {entry.name for entry in fields(cls)}
        if unknown := set(raw) - known:
            raise CircuitFileError(
                f"unknown entries in the provenance: {', '.join(sorted(unknown))}"
            )
        entries = dict(raw)
        for name in ("positive", "negative"):
            entries[name] = _prompt_record(entries.get(name))
        if universal := entries.get("universal"):
            record: dict[str, Any] = dict(universal)
            record["prompts"] = _prompt_record(record.get("prompts"))
            entries["universal"] = UniversalRecord(**record)
        if entries.get("layers") is not None:
            entries["layers"] = tuple(entries["layers"])
        entries["versions"] = tuple(
            (name, version) for name, version in entries.get("versions", ())
        )
        return cls(**entries)


def _prompt_record(raw: Mapping[str, Any] | None) -> PromptRecord | None:
    return None if raw is None else PromptRecord(**raw)


def library_versions() -> tuple[tuple[str, str], ...]:
    """Name and version of cna_lens and of what computes for it, in the order of their names."""
    found: list[tuple[str, str]] = []
    for name in ("cna-lens", "torch", "transformer-lens", "transformers"):
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, "unknown"))
    return tuple(found)
