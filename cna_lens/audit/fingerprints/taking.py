"""Taking a fingerprint: the model is measured, and measured again for the size of noise."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from cna_lens.audit.checks.null_spread import null_runs
from cna_lens.audit.fingerprints.fingerprint import CanaryRecord, Fingerprint
from cna_lens.audit.inference_path import hooks
from cna_lens.audit.measuring.canaries import Canaries
from cna_lens.audit.measuring.measurement import Place, measure
from cna_lens.audit.measuring.reference import Reference
from cna_lens.audit.measuring.sampled_refusals import (
    ANSWER_TOKENS,
    check_samples,
    sample_refusals,
)
from cna_lens.audit.measuring.watch_list import RANKINGS, watch_list
from cna_lens.audit.measuring.weights import Matrices, tensor_records
from cna_lens.discovery.pipeline import find_circuit
from cna_lens.metrics.refusal.rules import is_refusal
from cna_lens.models.hooked_model import HookedModel, check_model, model_name
from cna_lens.models.inside.matching import check_circuit
from cna_lens.models.running.batching import BatchSize
from cna_lens.models.running.generation import generate
from cna_lens.results.circuit import Circuit
from cna_lens.results.provenance import library_versions
from cna_lens.results.statistics import wilson

SAMPLES = 4
"""Sampled answers to each harmful canary."""


def fingerprint(
    model: HookedModel,
    circuit: Circuit | None = None,
    canaries: Canaries | None = None,
    *,
    key: bytes | None = None,
    rankings: Sequence[str] = tuple(RANKINGS),
    position: Place = -1,
    samples: int = SAMPLES,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = True,
) -> Fingerprint:
    """Take the fingerprint of a model in the state in which it should be.

    Cost: about ten passes over the canaries, two of them with a backward pass, a short answer to
    each, and sampled ones to the harmful ones. The model stays unchanged. For a model that reasons
    before it answers, take `position="answer"`: the last token of a canary tells little about its
    answer. That costs its reasoning about all canaries three times, and a fourth time if there is
    no circuit; `attest` then lets the model reason once.

    Args:
        model: a TransformerBridge or HookedTransformer.
        circuit: the neurons that refuse; by default those that the paper's contrast finds on the
            canaries.
        canaries: your own secret canaries; by default the packaged ones.
        key: the key of the canaries' hashes. The default is a random key, which is kept in the
            file. With your own key, nobody can use the file to test guesses at the canaries.
        rankings: the rankings by which an adversary may pick neurons; see `cna_lens.RANKINGS`.
        position: -1 reads the canaries at their last token, "answer" where the answer begins,
            behind the model's own reasoning; see `with_reasoning`.
        samples: answers to draw for each harmful canary, with which later samples are compared;
            none are drawn if it is 0, or at position "answer", where the reasoning would be sampled
            too.
        batch_size: canaries for each forward pass.
        seed: seed of the random neurons that serve as a control, and of the samples.
        progress: show progress bars.

    Raises:
        InputError: the canaries, the circuit or the settings are invalid, or the reasoning about a
            canary does not end.
        ModelError: the model's neurons cannot be reached, or a ranking does not support the model;
            then give other `rankings`.
    """
    check_model(model)
    check_samples(samples, least=0)
    canaries = canaries or Canaries.packaged()
    if circuit is None:
        circuit = find_circuit(
            model,
            canaries.harmful,
            canaries.benign,
            position=position,
            batch_size=batch_size,
            progress=progress,
        )
    check_circuit(model, circuit)
    measured = measure(model, canaries, position=position, batch_size=batch_size, progress=progress)
    watched = watch_list(
        model,
        measured,
        circuit,
        rankings=rankings,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    reference = Reference.of(measured, watched, Matrices.of(model, measured.layout))
    answers = generate(
        model,
        measured.encoded.ids,
        max_new_tokens=ANSWER_TOKENS,
        batch_size=batch_size,
        progress=progress,
    )
    refused = tuple(map(is_refusal, answers))
    n_harmful = len(canaries.harmful)
    sampled = None
    if samples and position == -1:
        sampled = sample_refusals(
            model,
            measured.encoded.ids[:n_harmful],
            samples,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
    own_key = secrets.token_bytes(32) if key is None else key
    return Fingerprint(
        model=model_name(model),
        canaries=CanaryRecord(
            canaries.name, canaries.hashes(own_key), own_key.hex() if key is None else None
        ),
        template_sha256=measured.encoded.template_sha256,
        weights=tensor_records(model),
        hooks=hooks(model),
        reference=reference,
        refused=refused,
        harmful_refused=wilson(refused[:n_harmful]),
        benign_refused=wilson(refused[n_harmful:]),
        null=null_runs(model, canaries, reference, position=position, progress=progress),
        position=position,
        versions=library_versions(),
        sampled=sampled,
    )
