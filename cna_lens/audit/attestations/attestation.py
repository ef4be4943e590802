"""An attestation: the checks of a model against a fingerprint, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

from cna_lens.audit.checks.thresholds import (
    LOST_REFUSALS,
    OVER_REFUSAL,
    QUESTIONS_OF_THEIR_OWN,
)
from cna_lens.audit.inference_path import Interception
from cna_lens.audit.signing.model_files import ModelSignature
from cna_lens.results.neurons import AnyNeuron
from cna_lens.results.records import Evidence
from cna_lens.results.rendering import Cell, Table

Access = Literal["weights", "activations"]
Verdict = Literal[
    "match",
    "benign drift",
    "tampered",
    "lost refusals",
    "over-refusal",
    "served otherwise",
    "another model",
    "undecided",
]

EXIT_CODES: Final[Mapping[Verdict, int]] = MappingProxyType(
    {
        "match": 0,
        "benign drift": 0,
        "tampered": 1,
        "lost refusals": 1,
        "over-refusal": 1,
        "served otherwise": 1,
        "another model": 1,
        "undecided": 2,
    }
)
"""What the command line exits with: 0 lets a pipeline go on."""

CHANCE = 0.1
"""With a larger p-value a statistic counts for nothing, however large it is."""


@dataclass(frozen=True)
class Check:
    """One number that was compared.

    Attributes:
        name: the name of the check.
        statistic: 0 for the fingerprint's model, up to chance in sampled answers; 1 where
            everything that is checked is gone, or where all benign canaries are refused.
        threshold: the smallest statistic at which the check counts; None for a number that is only
            shown for comparison.
        p_value: probability of a statistic this large if the change did not target refusals; for
            over-refusal if refusals were as likely lost as added; for lost refusals if each canary
            were refused as often as before; None as above.
        speaks: whether the check indicates tampering, over-refusal, or lost refusals.
        layers: the layers where the statistic is largest.
        neurons: the neurons that changed, each with its gain.
    """

    name: str
    statistic: float
    threshold: float | None = None
    p_value: float | None = None
    speaks: bool = False
    layers: tuple[int, ...] = ()
    neurons: tuple[tuple[AnyNeuron, float], ...] = ()

    @property
    def is_judged(self) -> bool:
        """Whether the verdict depends on it."""
        return self.threshold is not None

    @property
    def is_of_tampering(self) -> bool:
        """Whether it asks if the change targets refusals; two checks ask other questions."""
        return self.is_judged and self.name not in QUESTIONS_OF_THEIR_OWN

    @property
    def is_of_removal(self) -> bool:
        """Whether it asks if refusals were removed, on purpose or not."""
        return self.is_judged and self.name != OVER_REFUSAL

    @property
    def is_unsure(self) -> bool:
        """Whether it is beyond its threshold, and chance might explain it.

        Sampled answers vary by chance where nothing changed, so that this says nothing of them.
        """
        return self.strength >= 1 and not self.speaks and self.name != LOST_REFUSALS

    @property
    def strength(self) -> float:
        """The statistic in units of its threshold; 0 if chance explains it or none is set."""
        if self.threshold is None or self.p_value is None or self.p_value > CHANCE:
            return 0.0
        return self.statistic / self.threshold


@dataclass(frozen=True)
class Kinship:
    """How far one kind of measurement shows that a model is of the fingerprint's family.

    Attributes:
        name: what was compared: "output weights", "refusal directions" or "neurons' activations".
        statistic: 1 for the fingerprint's model, about 0 for one that has nothing to do with it.
        p_value: probability of an agreement this large if it had nothing to do with it.
        shown: whether this agreement alone shows that the models are of one family.
    """

    name: str
    statistic: float
    p_value: float
    shown: bool

    def __str__(self) -> str:
        """One line of a report."""
        # Below the smallest number a probability is stored as 0, which no probability is.
        p = f"p = {self.p_value:.2g}" if self.p_value else "p < 1e-300"
        return f"{self.name} {self.statistic:.2f} ({p})"


@dataclass(frozen=True)
class Attestation(Evidence):
    """The result of `cna_lens.audit.attest`.

    Attributes:
        model: the name of the model that was checked.
        fingerprint_of: the name of the model whose fingerprint it was compared with.
        access: what was examined: "weights" (and all else) or "activations", which are
            activations, logits and sampled answers.
        verdict: "match", "benign drift", "tampered", "lost refusals", "over-refusal", "another
            model" or "undecided".
        why: the verdict in words.
        score: the largest statistic in units of its threshold, of a check of tampering or of lost
            refusals. Above 1 a check speaks if its p-value is small enough too.
        checks: the checks, and the numbers that are only shown for comparison.
        kind: the likeliest kind of tampering; None if there is none.
        layers: the layers where it is.
        neurons: the changed neurons, each with its gain: the share that is left of it.
        movement: how far the model moved, see `cna_lens.audit.checks.signals`.
        numerical: how far numerics alone move the fingerprint's model.
        tensors: the tensors whose bytes changed; None if they were not examined.
        hooks: code that is on the inference path now and was not before; None as above.
        lineage: whether the model is of the fingerprint's family, by each kind of measurement that
            could be compared; empty if its layers or neurons are other ones in number.
        signature: the signature beside the weights, if the command line found one.
    """

    model: str
    fingerprint_of: str
    access: Access
    verdict: Verdict
    why: str
    score: float
    checks: tuple[Check, ...]
    kind: str | None
    layers: tuple[int, ...]
    neurons: tuple[tuple[AnyNeuron, float], ...]
    movement: float
    numerical: float
    tensors: tuple[str, ...] | None
    hooks: tuple[Interception, ...] | None
    lineage: tuple[Kinship, ...] = ()
    signature: ModelSignature | None = None

    @property
    def exit_code(self) -> int:
        """What the command line exits with."""
        return EXIT_CODES[self.verdict]

    @property
    def limits(self) -> tuple[str, ...]:
        """What this attestation cannot tell, in sentences."""
        compared = {check.name for check in self.checks}
        if self.verdict == "another model":
            return (
                "A model of the same family counts as another one if layers or neurons were added "
                "or removed, if its residual stream was written in another basis, or if it was "
                "trained until nothing is left of it.",
                "Whether the other model was tampered with is not told: it needs a fingerprint of "
                "its own.",
            )
        left_out = {
            "The signature beside the weights was not verified.": self.signature is not None
            and self.signature.verified_with is None,
            "Weights and inference path were not examined.": self.access != "weights",
            "The down projections are no plain matrices, so the norms of neurons' weights were "
            "not compared.": self.access == "weights" and "weights" not in compared,
        }
        return (
            (
                "The checks see what the canaries ask for. Of answers they read only whether the "
                "first words to harmful canaries refuse."
                if LOST_REFUSALS in compared
                else "The checks see what the canaries ask for, up to the first token of an "
                "answer, and nothing else that the model does: ask for answers too."
            ),
            *(said for said, holds in left_out.items() if holds),
            "Whoever knows canaries and checks can try to spare them. The fingerprint was taken as "
            "genuine.",
        )

    def record(self) -> dict[str, Any]:
        """As plain data, without texts."""
        return asdict(self)

    def _headline(self) -> str:
        return f"{self.verdict}, score {self.score:.2f}"

    def _facts(self) -> list[tuple[str, str]]:
        facts = [
            ("why", self.why),
            ("limits", " ".join(self.limits)),
            ("model", self.model),
            ("fingerprint", f"of {self.fingerprint_of}, compared by {self.access}"),
        ]
        if self.signature is not None:
            facts.append(("model's signature", str(self.signature)))
        if self.lineage:
            facts.append(("lineage", ", ".join(map(str, self.lineage))))
        if self.checks:
            facts += [
                (
                    "score",
                    f"{self.score:.2f}; above 1 a check counts, unless chance explains it",
                ),
                ("movement", f"{self.movement:.3g}, by numerics alone {self.numerical:.3g}"),
            ]
        if self.kind is not None:
            facts.append(("likeliest", self.kind))
            facts.append(("layers", ", ".join(map(str, self.layers)) or "not told"))
        if self.neurons:
            shown = ", ".join(f"{neuron.label} x {gain:.2f}" for neuron, gain in self.neurons[:10])
            more = f" and {len(self.neurons) - 10} more" if len(self.neurons) > 10 else ""
            facts.append(("neurons", shown + more))
        if self.tensors is not None:
            facts.append(("tensors changed", str(len(self.tensors))))
        if self.hooks is not None:
            facts.append(("new on the inference path", str(len(self.hooks))))
        return facts

    def _table(self) -> Table:
        columns = ("check", "statistic", "threshold", "p", "speaks", "layers")
        rows = tuple(
            (
                Cell.of(check.name),
                Cell.of(check.statistic, "+.3f"),
                Cell.of(check.threshold, ".3f"),
                Cell.of(check.p_value, ".2g"),
                Cell.of("yes" if check.speaks else "no" if check.is_judged else "-"),
                Cell.of(", ".join(map(str, check.layers))),
            )
            for check in self.checks
        )
        return Table("Checks", columns, rows)
