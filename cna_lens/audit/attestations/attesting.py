"""Attesting: a model is observed, and the observation is judged against a fingerprint."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import get_args

from cna_lens.audit.attestations.attestation import Access, Attestation, Check
from cna_lens.audit.attestations.verdicts import judged, kinships, likeliest, verdict_of
from cna_lens.audit.checks.checks import Finding, by_activations, weights
from cna_lens.audit.checks.lineage import OUTPUT_WEIGHTS, Agreement, agreements
from cna_lens.audit.checks.lost_refusals import lost_refusals
from cna_lens.audit.checks.signals import gap_and_energy, lost_deviations, movement, refusal_gap
from cna_lens.audit.checks.thresholds import Thresholds
from cna_lens.audit.fingerprints.fingerprint import Fingerprint
from cna_lens.audit.inference_path import Interception, hooks
from cna_lens.audit.measuring.canaries import Canaries
from cna_lens.audit.measuring.measurement import Measurement, measure
from cna_lens.audit.measuring.sampled_refusals import check_samples, sample_refusals
from cna_lens.audit.measuring.weights import Matrices, TensorRecord, tensor_records
from cna_lens.errors import FingerprintError, InputError
from cna_lens.models.hooked_model import HookedModel, check_model, model_name
from cna_lens.models.running.batching import BatchSize


def attest(
    model: HookedModel,
    fingerprint: Fingerprint,
    canaries: Canaries | None = None,
    *,
    access: Access = "weights",
    key: bytes | None = None,
    thresholds: Thresholds | None = None,
    samples: int | None = None,
    seed: int = 0,
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> Attestation:
    """Compare a model with a fingerprint: has its refusal been tampered with?

    A model changes for many reasons: another precision, another kernel, a fine-tune. The checks ask
    whether the change targets refusal: whether it affects harmful canaries more than benign ones,
    and refusal neurons more than random neurons of the same layers. Before that they ask whether
    the model is of the fingerprint's family at all: another model is called that, and not tampered
    with. One check asks whether sampled answers still refuse, and not why. It costs two passes over
    the canaries, and 12 tokens of an answer to each harmful one. If the fingerprint was taken at
    position "answer", the model first reasons about each canary, and no answer is sampled.

    Args:
        model: the model to check; inside a steering context, the steered model.
        fingerprint: the fingerprint of the model as it should be, from `fingerprint`.
        canaries: the canaries of the fingerprint; by default the packaged ones.
        access: "weights" examines weights, inference path, activations and answers; "activations"
            examines only activations, logits and answers.
        key: the key of the canaries' HMAC, if the operator keeps it apart from the fingerprint.
        thresholds: how large a check's statistic must be, and how small its p-value, to indicate
            tampering.
        samples: answers to draw for each harmful canary at temperature 1; 0 draws none. By default
            one, if some of the fingerprint's samples refuse.
        seed: of the samples. They are never those of a fingerprint; another call with the same seed
            draws the same, and adds no evidence.
        batch_size: canaries for each forward pass.
        progress: show progress bars.

    Raises:
        InputError: the canaries are not those of the fingerprint, or the settings are invalid.
        FingerprintError: the fingerprint is of a model of another chat template, or has no samples
            and some are asked for.
        ModelError: the model's neurons cannot be reached, or it cannot be sampled from.
    """
    seen = observe(
        model,
        fingerprint,
        canaries,
        access=access,
        key=key,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    return judge(seen, fingerprint, access=access, thresholds=thresholds)


@dataclass(frozen=True)
class Observation:
    """The numbers that were taken of a model, before they are judged.

    Attributes:
        model: the name of the model.
        activations: findings from activations and logits.
        weights: findings from the weights, if they were examined and are plain matrices.
        answers: findings from sampled answers, if some were drawn.
        published: the values of two signals from the literature, each with its name.
        weight_energy: a third signal, which needs the weights; None if they were not examined.
        movement: how far log-odds and residual stream moved from the fingerprint's.
        tensors: the tensors whose bytes changed; None if they were not examined.
        hooks: code that is on the inference path now and was not before; None if the inference
            path was not examined.
        lineage: how far the model agrees with the fingerprint's, whatever happened to refusals.
        another_shape: how layers or neurons differ in number from the fingerprint's; None if they
            do not. Nothing else can be compared then.
    """

    model: str
    activations: tuple[Finding, ...]
    weights: tuple[Finding, ...]
    published: tuple[tuple[str, float], ...]
    weight_energy: float | None
    movement: float
    tensors: tuple[str, ...] | None
    hooks: tuple[Interception, ...] | None
    lineage: tuple[Agreement, ...] = ()
    another_shape: str | None = None
    answers: tuple[Finding, ...] = ()


def observe(
    model: HookedModel,
    fingerprint: Fingerprint,
    canaries: Canaries | None = None,
    *,
    access: Access = "weights",
    key: bytes | None = None,
    samples: int | None = None,
    seed: int = 0,
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> Observation:
    """Run the model as `attest` does; `judge` then judges the observation by any thresholds.

    Arguments (without `thresholds`) and errors are those of `attest`.
    """
    _check_access(access)
    check_model(model)
    canaries = canaries or Canaries.packaged()
    fingerprint.canaries.check(canaries, key)
    samples = _samples_of(fingerprint, samples)
    reference = fingerprint.reference
    now = measure(
        model,
        canaries,
        position=fingerprint.position,
        batch_size=batch_size,
        progress=progress,
    )
    if (shape := _another_shape(model, fingerprint, now)) is not None:
        nothing = Observation(model_name(model), (), (), (), None, math.inf, None, None)
        return replace(nothing, another_shape=shape)
    _check_same_template(model, fingerprint, now)
    answers: tuple[Finding, ...] = ()
    if fingerprint.sampled is not None and samples:
        harmful = now.encoded.ids[: now.n_harmful]
        # Samples of the fingerprint, whose seeds begin with 0, would not be independent of these.
        other = -1 - seed
        drawn = sample_refusals(
            model, harmful, samples, seed=other, batch_size=batch_size, progress=progress
        )
        answers = (lost_refusals(fingerprint.sampled, drawn),)
    found: tuple[Finding, ...] = ()
    energy = tensors = found_hooks = matrices = None
    if access == "weights":
        matrices = Matrices.of(model, now.layout)
        by_weights = None if matrices is None else weights(reference, matrices)
        found = () if by_weights is None else (by_weights,)
        records = tensor_records(model)
        energy = gap_and_energy(reference, now, fingerprint.weights, records)
        tensors = _changed(fingerprint.weights, records)
        found_hooks = tuple(each for each in hooks(model) if each not in fingerprint.hooks)
    return Observation(
        model=model_name(model),
        activations=by_activations(reference, now),
        weights=found,
        published=(
            ("published: refusal gap", refusal_gap(reference, now)),
            ("published: deviations lost", lost_deviations(reference, now)),
        ),
        weight_energy=energy,
        movement=movement(reference, now),
        tensors=tensors,
        hooks=found_hooks,
        lineage=agreements(reference, now, matrices),
        answers=answers,
    )


def judge(
    seen: Observation,
    fingerprint: Fingerprint,
    *,
    access: Access = "weights",
    thresholds: Thresholds | None = None,
) -> Attestation:
    """Judge an observation by thresholds.

    Args:
        seen: the observation from `observe`.
        fingerprint: the fingerprint with which it was made.
        access: "activations" leaves out the weights and the inference path, even if they were
            observed.
        thresholds: how large a check's statistic must be, and how small its p-value, to indicate
            tampering.

    Raises:
        InputError: `access` is "weights", but the observation was made with access="activations".
    """
    _check_access(access)
    thresholds = thresholds or Thresholds()
    numerical = max((run.movement for run in fingerprint.null), default=0.0)
    if seen.another_shape is not None:
        return _of_another_shape(seen, seen.another_shape, fingerprint, access, numerical)
    published = list(seen.published)
    findings, tensors, found_hooks = seen.activations, None, None
    agreed = [each for each in seen.lineage if access == "weights" or each.name != OUTPUT_WEIGHTS]
    if access == "weights":
        if seen.weight_energy is None:
            raise InputError("the weights were not observed; observe with access='weights'")
        findings = (*findings, *seen.weights)
        published.append(("published: refusal gap and weight energy", seen.weight_energy))
        tensors, found_hooks = seen.tensors, seen.hooks
    checks = judged((*findings, *seen.answers), fingerprint, thresholds)
    lineage = kinships(agreed)
    moved = seen.movement > thresholds.margin * numerical or bool(tensors) or bool(found_hooks)
    verdict, why = verdict_of(checks, fingerprint, lineage, moved=moved)
    kind, where = likeliest(checks) if verdict == "tampered" else (None, None)
    return Attestation(
        model=seen.model,
        fingerprint_of=fingerprint.model,
        access=access,
        verdict=verdict,
        why=why,
        score=max(check.strength for check in checks if check.is_of_removal),
        checks=(*checks, *(Check(name, value) for name, value in published)),
        kind=kind,
        layers=where.layers if where else (),
        neurons=where.neurons if where else (),
        movement=seen.movement,
        numerical=numerical,
        tensors=tensors,
        hooks=found_hooks,
        lineage=lineage,
    )


def _of_another_shape(
    seen: Observation, shape: str, fingerprint: Fingerprint, access: Access, numerical: float
) -> Attestation:
    return Attestation(
        model=seen.model,
        fingerprint_of=fingerprint.model,
        access=access,
        verdict="another model",
        why=shape,
        score=0.0,
        checks=(),
        kind=None,
        layers=(),
        neurons=(),
        movement=seen.movement,
        numerical=numerical,
        tensors=None,
        hooks=None,
    )


def _samples_of(fingerprint: Fingerprint, samples: int | None) -> int:
    """How many answers to each harmful canary are drawn."""
    if samples is None:
        sampled = fingerprint.sampled
        return int(sampled is not None and any(sampled.refused))
    check_samples(samples, least=0)
    if samples:
        fingerprint.sampled_refusals()
    return samples


def _check_access(access: str) -> None:
    if access not in get_args(Access):
        raise InputError(f"access is {access!r}, expected one of {', '.join(get_args(Access))}")


def _changed(before: tuple[TensorRecord, ...], after: tuple[TensorRecord, ...]) -> tuple[str, ...]:
    hashes = {each.name: each.sha256 for each in before}
    found = {each.name: each.sha256 for each in after}
    return tuple(name for name in sorted(hashes | found) if hashes.get(name) != found.get(name))


def _another_shape(model: HookedModel, fingerprint: Fingerprint, now: Measurement) -> str | None:
    reference = fingerprint.reference
    before, after = reference.stream.directions.shape[-1], now.stream.shape[-1]
    if now.layout == reference.layout and before == after:
        return None
    return (
        f"the fingerprint is of {fingerprint.model}, with {reference.layout.n_neurons} neurons in "
        f"{reference.layout.n_layers} layers and a residual stream of {before}; "
        f"{model_name(model)} has {now.layout.n_neurons} in {now.layout.n_layers} and {after}"
    )


def _check_same_template(model: HookedModel, fingerprint: Fingerprint, now: Measurement) -> None:
    if now.encoded.template_sha256 != fingerprint.template_sha256:
        raise FingerprintError(
            f"the chat template of {model_name(model)} is not the fingerprint's; "
            "load the tokenizer that it was taken with"
        )
