"""A fingerprint: the numbers of a model with which it is compared later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import torch

from cna_lens.audit.checks.null_spread import NullRun
from cna_lens.audit.checks.signals import deviations
from cna_lens.audit.fingerprints.codec import packed, unpacked
from cna_lens.audit.inference_path import Interception
from cna_lens.audit.measuring.canaries import Canaries
from cna_lens.audit.measuring.measurement import Place
from cna_lens.audit.measuring.probes import Probes
from cna_lens.audit.measuring.reference import Axes, Reference
from cna_lens.audit.measuring.sampled_refusals import SampledRefusals
from cna_lens.audit.measuring.watch_list import Watched
from cna_lens.audit.measuring.weights import TensorRecord
from cna_lens.errors import FingerprintError, InputError
from cna_lens.results.files import write_atomically
from cna_lens.results.layout import Layout
from cna_lens.results.neurons import Experts
from cna_lens.results.statistics import Rate
from cna_lens.results.versioned import VersionedJson

FILE: Final = VersionedJson(
    "cna_lens.fingerprint", 1, "fingerprint", FingerprintError, "take the fingerprint again"
)
T = TypeVar("T")


@dataclass(frozen=True)
class CanaryRecord:
    """The canaries of a fingerprint, without their text.

    Attributes:
        name: the name of the set.
        hashes: HMAC-SHA256 of each canary, the harmful ones first.
        key: the key of the hashes in hexadecimal. None if the operator gave their own key,
            which the fingerprint does not hold.
    """

    name: str
    hashes: tuple[str, ...]
    key: str | None

    def check(self, canaries: Canaries, key: bytes | None) -> None:
        """Raise InputError unless these are the fingerprint's canaries, in its order."""
        if key is None and self.key is None:
            raise InputError(
                "the fingerprint does not hold the key of its canaries' hashes; give the key with "
                "which it was taken"
            )
        own = key if self.key is None else bytes.fromhex(self.key)
        if canaries.hashes(cast("bytes", own)) != self.hashes:
            raise InputError(
                f"{canaries} are not the canaries of the fingerprint, {self.name!r}, or the key is "
                "another; give the canaries and the key with which it was taken, in the same order"
            )


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """The numbers that `cna_lens.audit.fingerprint` takes of a model, without any canary's text.

    Attributes:
        model: the name of the model.
        canaries: the canaries, as keyed hashes.
        template_sha256: the hash of the chat template; None if there is none.
        weights: name, type, shape, hash and norm of each tensor.
        hooks: code on the inference path that was not the model's own.
        reference: the numbers that later measurements are compared with.
        refused: whether the answer to each canary opens with a refusal (`is_refusal`).
        harmful_refused: the rate of refusals of harmful canaries.
        benign_refused: the rate of refusals of benign canaries.
        null: the same model under other conditions.
        versions: name and version of each library that computes.
        position: where the canaries were read, -1 for their last token, "answer" for where the
            answer begins behind the model's own reasoning.
        sampled: how often sampled answers refuse; None where none were drawn.
    """

    model: str
    canaries: CanaryRecord
    template_sha256: str | None
    weights: tuple[TensorRecord, ...]
    hooks: tuple[Interception, ...]
    reference: Reference
    refused: tuple[bool, ...]
    harmful_refused: Rate
    benign_refused: Rate
    null: tuple[NullRun, ...]
    versions: tuple[tuple[str, str], ...]
    position: Place = -1
    sampled: SampledRefusals | None = None

    @property
    def separation(self) -> tuple[float, ...]:
        """The distance between the kinds of canaries in each layer, in pooled standard deviations.

        In the residual stream after the layer, along the difference of the kinds' means.
        """
        reference = self.reference
        return tuple(deviations(reference.stream.places, reference.n_harmful).tolist())

    def sampled_refusals(self) -> SampledRefusals:
        """How often sampled answers refuse.

        Raises:
            FingerprintError: none were drawn.
        """
        if self.sampled is None:
            raise FingerprintError(
                f"the fingerprint of {self.model} has no sampled answers to compare with; take it "
                "again with `samples` above 0, at position -1, or compare without samples: "
                "`attest(samples=0)`, or `attest_answers` for an endpoint"
            )
        return self.sampled

    def null_spread(self, check: str) -> float:
        """The largest magnitude of a check's statistic under the conditions of `null`."""
        return max((abs(run.statistics.get(check, 0.0)) for run in self.null), default=0.0)

    def __repr__(self) -> str:
        """One useful line."""
        return (
            f"Fingerprint(model {self.model}, canaries {self.canaries.name!r}, "
            f"{len(self.weights)} tensors, refuses {self.harmful_refused})"
        )

    def content(self) -> bytes:
        """The bytes that `save` writes: the same fingerprint always gives the same bytes."""
        record = {
            "model": self.model,
            "canaries": asdict(self.canaries),
            "template_sha256": self.template_sha256,
            "weights": [asdict(each) for each in self.weights],
            "hooks": [asdict(each) for each in self.hooks],
            "reference": _reference_record(self.reference),
            "separation": self.separation,
            "refused": self.refused,
            "harmful_refused": asdict(self.harmful_refused),
            "benign_refused": asdict(self.benign_refused),
            "null": [asdict(each) for each in self.null],
            "versions": self.versions,
        }
        # So that a fingerprint taken at the last token, or without samples, has the same bytes as
        # before.
        if self.position != -1:
            record["position"] = self.position
        if self.sampled is not None:
            record["sampled"] = asdict(self.sampled)
        return FILE.encode(record).encode()

    def save(self, path: str | Path) -> None:
        """Write the fingerprint as JSON; an existing file is replaced as a whole or not at all."""
        write_atomically(Path(path), self.content().decode())

    @classmethod
    def load(cls, path: str | Path) -> Fingerprint:
        """Read a fingerprint that `save` wrote; a signature is not checked.

        Raises:
            FingerprintError: the file is missing, damaged, not a fingerprint, or of a later
                version.
        """
        return cls.parse(FILE.read(path), str(path))

    @classmethod
    def parse(cls, content: bytes, name: str = "the fingerprint") -> Fingerprint:
        """Read a fingerprint from the bytes that `content` gave.

        Raises:
            FingerprintError: as `load`.
        """
        return FILE.decode(content, name, _fingerprint)


def _fingerprint(body: Mapping[str, Any]) -> Fingerprint:
    canaries = body["canaries"]
    return Fingerprint(
        model=str(body["model"]),
        canaries=CanaryRecord(canaries["name"], tuple(canaries["hashes"]), canaries["key"]),
        template_sha256=body["template_sha256"],
        weights=tuple(
            TensorRecord(**(each | {"shape": tuple(each["shape"])})) for each in body["weights"]
        ),
        hooks=tuple(Interception(**each) for each in body["hooks"]),
        reference=_reference(body["reference"]),
        refused=tuple(map(bool, body["refused"])),
        harmful_refused=Rate(**body["harmful_refused"]),
        benign_refused=Rate(**body["benign_refused"]),
        null=tuple(NullRun(**each) for each in body["null"]),
        versions=tuple(map(tuple, body["versions"])),
        position=body.get("position", -1),
        sampled=_given(
            partial(_sampled, n_harmful=int(body["reference"]["n_harmful"])), body.get("sampled")
        ),
    )


def _sampled(record: Mapping[str, Any], n_harmful: int) -> SampledRefusals:
    found = SampledRefusals(int(record["samples"]), tuple(map(int, record["refused"])))
    if len(found.refused) != n_harmful:
        raise InputError(
            f"it has sampled answers to {len(found.refused)} canaries, and {n_harmful} harmful ones"
        )
    return found


def _reference_record(reference: Reference) -> dict[str, Any]:
    watched = reference.watched
    return {
        "widths": reference.layout.widths,
        "experts": reference.layout.experts,
        "n_harmful": reference.n_harmful,
        "log_odds": reference.log_odds.tolist(),
        "stream": _tensors(reference.stream),
        "mlp": _tensors(reference.mlp),
        "sets": {name: each.tolist() for name, each in watched.sets.items()},
        "control": watched.control.tolist(),
        "activations": packed(reference.activations),
        "energies": _given(packed, reference.energies),
        "readouts": _given(packed, reference.readouts),
        "offsets": packed(reference.offsets),
        "explained": reference.explained,
        "summed": reference.summed,
        "probes": _given(_tensors, reference.probes),
    }


def _reference(record: Mapping[str, Any]) -> Reference:
    experts = tuple(Experts(*each) for each in record["experts"])
    layout = Layout(tuple(record["widths"]), experts)
    sets = {name: torch.tensor(each) for name, each in record["sets"].items()}
    return Reference(
        layout=layout,
        n_harmful=int(record["n_harmful"]),
        log_odds=torch.tensor(record["log_odds"], dtype=torch.float64),
        stream=_restored(Axes, record["stream"]),
        mlp=_restored(Axes, record["mlp"]),
        watched=Watched(layout, sets, torch.tensor(record["control"])),
        activations=unpacked(record["activations"]),
        energies=_given(unpacked, record["energies"]),
        readouts=_given(unpacked, record["readouts"]),
        offsets=unpacked(record["offsets"]),
        explained=tuple(map(bool, record["explained"])),
        summed=tuple(map(bool, record["summed"])),
        probes=_given(partial(_restored, Probes), record["probes"]),
    )


def _tensors(value: Axes | Probes) -> dict[str, Any]:
    return {each.name: packed(getattr(value, each.name)) for each in fields(value)}


def _restored(cls: Callable[..., T], record: Mapping[str, Any]) -> T:
    return cls(**{name: unpacked(tensor) for name, tensor in record.items()})


def _given(convert: Callable[[Any], T], value: Any) -> T | None:
    return None if value is None else convert(value)
