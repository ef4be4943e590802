"""Provenance: where activations came from, how a circuit was found, with which libraries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from cna_lens.errors import CircuitFileError
from cna_lens.results.layout import HOOK_SITE

Position = int | Literal["answer"]
"""The token of a prompt that is read: its index, or "answer" for the last one before the answer."""


@dataclass(frozen=True)
class PromptRecord:
    """A prompt set without its text: the number of prompts, and a hash of their token ids."""

    count: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """Where activations came from. Two sets can be contrasted if they agree in all but prompts."""

    model: str
    position: Position
    prompts: PromptRecord
    template_sha256: str | None = None
    site: str = HOOK_SITE
    chat: str | None = None


@dataclass(frozen=True)
class UniversalRecord:
    """The rule by which universal neurons were excluded, and the number of them.

    Attributes:
        n_neurons: the number of universal neurons that were found or given.
        fraction: the share of all activations that counts as the top of a prompt.
        threshold: the share of the prompts on which a neuron must be in the top.
        scope: "model" takes the top over all layers together, "layer" within each layer.
        by: whether the top is taken by "magnitude" or by "value".
        applied: whether neurons are excluded "before" the top k is taken, so that the circuit keeps
            its size, or "after".
        prompts: the diverse prompts; None where the user gave the neurons.
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
    """How a circuit was found, as far as it is known: all that a repetition needs but the texts.

    Attributes:
        model: the model's name.
        weights_sha256: the hash by `cna_lens.weights_hash`; None unless asked for.
        site: the hook point of each block.
        position: the position of the token that was read; -1 for the last one, "answer" for the
            last one before the answer, behind the model's own reasoning.
        template_sha256: the hash of the chat template; None where none was used.
        chat: the settings of the chat template that change tokens, as JSON: options and date, and
            hashes of the system message and the tools; None where all are the defaults.
        positive: the prompts that show the behaviour.
        negative: the prompts that do not show it.
        rank: the name of the ranking, with its settings if it has any.
        unit: the unit of the scores.
        sign: "abs", "positive" or "negative".
        fraction: the requested share of the model's neurons, of all experts too; None where k was
            given.
        k: the number of neurons in the circuit.
        layers: the layers that neurons were chosen from; None for all.
        max_per_layer: the largest number of neurons from one layer; None for no limit.
        universal: the universal filter; None where none was applied.
        versions: name and version of each library that computes.
        hub: the repository of the Hugging Face Hub and the commit that `Circuit.from_hub` read it
            at, as "owner/name@commit"; None where it was not read from there.
    """

    model: str | None = None
    weights_sha256: str | None = None
    site: str = HOOK_SITE
    position: Position | None = None
    template_sha256: str | None = None
    chat: str | None = None
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
    hub: str | None = None

    def facts(self) -> list[tuple[str, str]]:
        """The known entries in words, as facts of a summary."""
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
        if self.chat:
            facts.append(("chat template", self.chat))
        if self.weights_sha256:
            facts.append(("weights", self.weights_sha256[:16]))
        if self.hub:
            facts.append(("Hub", self.hub))
        return facts

    def record(self) -> dict[str, Any]:
        """The entries as plain data, which `from_record` restores.

        A circuit without chat settings, and one that was never on the Hub, have the bytes that they
        had before these entries existed.
        """
        younger = {"chat": self.chat, "hub": self.hub}
        left_out = {name for name, value in younger.items() if value is None}
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    @classmethod
    def from_record(cls, raw: Mapping[str, Any]) -> Provenance:
        """Restore a provenance from the plain data that `record` gives.

        Raises:
            CircuitFileError: the data have entries that this version does not know.
        """
        known = {entry.name for entry in fields(cls)}
        if unknown := set(raw) - known:
            raise CircuitFileError(
                f"unknown entries in the provenance: {', '.join(sorted(unknown))}"
            )
        entries = dict(raw)
        for side in ("positive", "negative"):
            entries[side] = _prompt_record(entries.get(side))
        if universal := entries.get("universal"):
            record: dict[str, Any] = dict(universal)
            record["prompts"] = _prompt_record(record.get("prompts"))
            entries["universal"] = UniversalRecord(**record)
        if entries.get("layers") is not None:
            entries["layers"] = tuple(entries["layers"])
        entries["versions"] = tuple(map(tuple, entries.get("versions", ())))
        return cls(**entries)


def _prompt_record(raw: Mapping[str, Any] | None) -> PromptRecord | None:
    return None if raw is None else PromptRecord(**raw)


def library_versions() -> tuple[tuple[str, str], ...]:
    """Name and version of cna_lens and of the libraries that compute for it, sorted by name."""
    names = ("cna-lens", "torch", "transformer-lens", "transformers")
    return tuple((name, _version(name)) for name in names)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
