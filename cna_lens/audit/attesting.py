"""Attesting: the model at hand beside a fingerprint."""

from __future__ import annotations

from typing import get_args

from cna_lens.audit.attestations import Access, Attestation, Check
from cna_lens.audit.canaries import Canaries
from cna_lens.audit.checks import by_activations, weights
from cna_lens.audit.fingerprints import Fingerprint
from cna_lens.audit.inference_path import hooks
from cna_lens.audit.judging import judged, likeliest, verdict_of
from cna_lens.audit.measurement import Measurement, measure
from cna_lens.audit.movement import movement
from cna_lens.audit.published import gap_and_energy, lost_deviations, refusal_gap
from cna_lens.audit.thresholds import Thresholds
from cna_lens.audit.weights import Matrices, TensorRecord, tensor_records
from cna_lens.batching import BatchSize
from cna_lens.errors import FingerprintError, InputError
from cna_lens.sites import HookedModel, check_model, model_name


def attest(
    model: HookedModel,
    fingerprint: Fingerprint,
    canaries: Canaries | None = None,
    *,
    access: Access = "weights",
    key: bytes | None = None,
    thresholds: Thresholds | None = None,
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> Attestation:
    """Compare a model with a fingerprint: is its refusal what it was?

    A model changes for many reasons: another precision, another kernel, a fine-tune. What is asked
    is whether the change singles out what refuses: harmful canaries beyond benign ones, neurons of
    refusal beyond random ones of their layers. Two passes over the canaries, no generation.

    Args:
        model: the model at hand; inside a steering context, the steered model.
        fingerprint: from `fingerprint`, of the model as it should be.
        canaries: those of the fingerprint; by default the packaged ones.
        access: "weights" looks at weights, inference path and activations; "activations" at
            activations and logits alone.
        key: of the canaries' hashes, where the operator keeps it.
        thresholds: from when on a check speaks of tampering.
        batch_size: canaries for each forward pass.
        progress: show progress bars.

    Raises:
        InputError: the canaries are not those of the fingerprint, or bad settings.
        FingerprintError: the fingerprint is of a model of another shape or chat template.
        ModelError: the model's neurons cannot be reached.
    """
    if access not in get_args(Access):
        raise InputError(f"access is {access!r}, expected one of {', '.join(get_args(Access))}")
    check_model(model)
    canaries = canaries or Canaries.packaged()
    fingerprint.canaries.check(canaries, key)
    thresholds = thresholds or Thresholds()
    reference = fingerprint.reference
    now = measure(model, canaries, batch_size=batch_size, progress=progress)
    _check_same_shape(model, fingerprint, now)
    findings = list(by_activations(reference, now))
    published = [
        Check("published: refusal gap", refusal_gap(reference, now), None, None, False),
        Check("published: deviations lost", lost_deviations(reference, now), None, None, False),
    ]
    tensors = found_hooks = None
    if access == "weights":
        matrices = Matrices.of(model, now.layout)
        if matrices is not None and (found := weights(reference, matrices)):
            findings.append(found)
        records = tensor_records(model)
        energy = gap_and_energy(reference, now, fingerprint.weights, records)
        published.append(
            Check("published: refusal gap and weight energy", energy, None, None, False)
        )
        tensors = _changed(fingerprint.weights, records)
        found_hooks = tuple(each for each in hooks(model) if each not in fingerprint.hooks)
    checks = judged(findings, fingerprint, thresholds)
    numerical = max((run.movement for run in fingerprint.null), default=0.0)
    moved = movement(reference, now)
    verdict, why = verdict_of(
        checks,
        fingerprint,
        moved=moved > thresholds.margin * numerical or bool(tensors) or bool(found_hooks),
    )
    kind, where = likeliest(checks) if verdict == "tampered" else (None, None)
    return Attestation(
        model=model_name(model),
        fingerprint_of=fingerprint.model,
        access=access,
        verdict=verdict,
        why=why,
        score=max(check.strength for check in checks),
        checks=(*checks, *published),
        kind=kind,
        layers=where.layers if where else (),
        neurons=where.neurons if where else (),
        movement=moved,
        numerical=numerical,
        tensors=tensors,
        hooks=found_hooks,
    )


def _changed(before: tuple[TensorRecord, ...], after: tuple[TensorRecord, ...]) -> tuple[str, ...]:
    hashes = {each.name: each.sha256 for each in before}
    found = {each.name: each.sha256 for each in after}
    return tuple(name for name in sorted(hashes | found) if hashes.get(name) != found.get(name))


def _check_same_shape(model: HookedModel, fingerprint: Fingerprint, now: Measurement) -> None:
    reference = fingerprint.reference
    same_width = now.stream.shape[-1] == reference.stream.directions.shape[-1]
    if now.layout != reference.layout or not same_width:
        raise FingerprintError(
            f"the fingerprint is of {fingerprint.model}, with {reference.layout.n_neurons} neurons "
            f"in {reference.layout.n_layers} layers; {model_name(model)} has "
            f"{now.layout.n_neurons} in {now.layout.n_layers}: take the model's own fingerprint"
        )
    if now.encoded.template_sha256 != fingerprint.template_sha256:
        raise FingerprintError(
            f"the chat template of {model_name(model)} is not the fingerprint's; "
            "load the tokenizer that it was taken with"
        )
