"""A model and the way to its answers, judged together: which of both has changed?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

from cna_lens.audit.attestations.answers import AnswersAttestation
from cna_lens.audit.attestations.attestation import EXIT_CODES, Attestation, Verdict
from cna_lens.audit.signing.model_files import ModelSignature
from cna_lens.errors import InputError
from cna_lens.results.records import Evidence
from cna_lens.results.rendering import Table, summary_of

FOUND = ("tampered", "lost refusals", "over-refusal", "another model")
"""Verdicts that find a change, of a model or of answers."""

GENUINE = ("match", "benign drift")


@dataclass(frozen=True)
class ServedAttestation(Evidence):
    """The attestations of a model and of the answers that are served in its name, judged together.

    Attributes:
        of_model: the attestation of the model, by its weights or its activations.
        of_answers: the attestation of the answers of the endpoint.
        verdict: "served otherwise" if the model is genuine and the answers are not: not the model
            has changed, but the way to it. Otherwise the verdict of the model, or of the answers
            where the model gives none.
        why: the verdict in words.
    """

    of_model: Attestation
    of_answers: AnswersAttestation
    verdict: Verdict
    why: str

    @property
    def model(self) -> str:
        """The name of the model that was loaded."""
        return self.of_model.model

    @property
    def fingerprint_of(self) -> str:
        """The name of the model whose fingerprint both were compared with."""
        return self.of_model.fingerprint_of

    @property
    def score(self) -> float:
        """The score of the model."""
        return self.of_model.score

    @property
    def signature(self) -> ModelSignature | None:
        """The signature beside the weights, if the command line found one."""
        return self.of_model.signature

    @property
    def exit_code(self) -> int:
        """What the command line exits with."""
        return EXIT_CODES[self.verdict]

    @property
    def limits(self) -> tuple[str, ...]:
        """What both attestations together cannot tell, in sentences."""
        both = (*self.of_model.limits, *self.of_answers.limits)
        return (
            "Whether the endpoint runs the model that was loaded is not told: other weights behind "
            "it count as another way.",
            *dict.fromkeys(both),
        )

    def record(self) -> dict[str, Any]:
        """Both attestations as plain data, without texts."""
        return asdict(self)

    def _headline(self) -> str:
        return f"{self.verdict}; the model: {self.of_model.verdict}; its answers: " + _said(
            self.of_answers
        )

    def _facts(self) -> list[tuple[str, str]]:
        model, answers = summary_of(self.of_model), summary_of(self.of_answers)
        counts = [] if answers.table is None else answers.table.rows
        told = (
            *((f"the model, {name}", text) for name, text in model.facts),
            *((f"its answers, {name}", text) for name, text in answers.facts),
            *((f"its answers, {name.text}", number.text) for name, number in counts),
        )
        return [
            ("why", self.why),
            ("limits", " ".join(self.limits)),
            *(each for each in told if each[0] not in ("the model, limits", "its answers, limits")),
        ]

    def _table(self) -> Table:
        return cast("Table", summary_of(self.of_model).table)


def judge_served(of_model: Attestation, of_answers: AnswersAttestation) -> ServedAttestation:
    """Tell a change of a model from a change of the way to its answers.

        genuine = audit.attest(model, fingerprint)
        served = audit.attest_answers(Endpoint("my-model", base_url=url), fingerprint)
        print(audit.judge_served(genuine, served))

    A system message, a prefilled answer, another chat template, sampling or a banned token change
    what a model answers and leave it as it is. Then its weights, or its activations and logits,
    match the fingerprint, and the answers that users get do not.

    | model | answers | verdict |
    |---|---|---|
    | match, benign drift | tampered, over-refusal | served otherwise |
    | match | as before; other ones to sensitive canaries | served otherwise |
    | benign drift | as before; other ones to sensitive canaries | undecided, as drift may do so |
    | match, benign drift | match, benign drift | the less certain of both |
    | tampered, lost refusals, over-refusal, another model | any | that of the model |
    | undecided | tampered, over-refusal | that of the answers |

    In all other cases the verdict is "undecided".

    Args:
        of_model: the attestation of the model, from `attest`.
        of_answers: the attestation of the endpoint, from `attest_answers` or `judge_refusals`.

    Raises:
        InputError: the two were compared with fingerprints of different models.
    """
    if of_model.fingerprint_of != of_answers.fingerprint_of:
        raise InputError(
            f"the model was compared with a fingerprint of {of_model.fingerprint_of}, and the "
            f"answers with one of {of_answers.fingerprint_of}; compare both with one fingerprint"
        )
    verdict, why = _joint(of_model, of_answers)
    return ServedAttestation(of_model, of_answers, verdict, why)


def _joint(model: Attestation, answers: AnswersAttestation) -> tuple[Verdict, str]:
    identity = None if answers.identity is None else answers.identity.verdict
    their_why = f"the answers: {_said(answers)}, {answers.why}"
    if model.verdict in FOUND:
        return model.verdict, f"{model.why}; {their_why}"
    if model.verdict not in GENUINE:
        verdict = answers.verdict if answers.verdict in FOUND else "undecided"
        return verdict, f"the model: undecided, {model.why}; {their_why}"
    by = "weights and activations" if model.access == "weights" else "activations and logits"
    shown = f"by {by} the model is a {model.verdict}"
    if answers.verdict in FOUND or (identity == "changed" and model.verdict == "match"):
        return "served otherwise", (
            f"not the model, but the way to it: {shown}; {their_why}. Look at system message, "
            "prefilled answer, chat template, sampling, banned tokens, and at which weights are "
            "served"
        )
    if identity == "changed":
        return "undecided", f"{shown}, which may change answers to sensitive canaries too"
    if "undecided" in (answers.verdict, identity):
        return "undecided", f"{shown}; {their_why}"
    if "benign drift" in (model.verdict, answers.verdict, identity):
        return "benign drift", f"{shown}, {model.why}; {their_why}"
    return "match", f"{shown}, and its answers are as before"


def _said(answers: AnswersAttestation) -> str:
    """The verdicts on both questions that answers are asked."""
    if answers.identity is None:
        return answers.verdict
    return f"{answers.verdict}, to sensitive canaries {answers.identity.verdict}"
