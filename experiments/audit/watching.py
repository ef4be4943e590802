"""After how many requests a watch tells that the model was tampered with, if it does."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from typing import Any

import cna_lens
from cna_lens import Circuit, CnaLensWarning, audit, generate, prompt_set
from cna_lens.audit import Histograms
from cna_lens.models import HookedModel
from experiments.audit.bench import Bench
from experiments.audit.variants import Variant

N_TRUSTED = 200


def shuffled_requests(seed: int) -> tuple[list[str], list[str]]:
    """Those of a trusted period and later ones: harmful and benign, packaged, without order."""
    sets = [prompt_set(name) for name in ("refusal", "refusal_evaluation")]
    requests = [prompt for each in sets for prompt in (*each.positive, *each.negative)]
    random.Random(seed).shuffle(requests)
    return requests[:N_TRUSTED], requests[N_TRUSTED:]


def watched(
    variants: Sequence[Variant], bench: Bench, circuit: Circuit, *, seed: int = 0
) -> list[dict[str, Any]]:
    """For each variant the request at which the alarm came, None where it did not.

    Args:
        variants: the models that are watched, each from the same trusted counts on.
        bench: what they are made of.
        circuit: the neurons.
        seed: of the requests' order.
    """
    trusted, later = shuffled_requests(seed)
    with audit.watch(bench.model, circuit) as usual:
        generate(bench.model, trusted, max_new_tokens=1, progress=True)
    found: list[dict[str, Any]] = []
    for variant in variants:
        with variant.enter(bench) as model:
            alarm = _alarm(model, circuit, usual.histograms, later)
        found.append(
            {
                "name": variant.name,
                "alarm_after": None if alarm is None else alarm.after,
                "n_requests": len(later),
            }
        )
    return found


def _alarm(
    model: HookedModel, circuit: Circuit, usual: Histograms, requests: Sequence[str]
) -> audit.Alarm | None:
    with warnings.catch_warnings():
        # That the weights are others than the circuit was found on is what is looked for.
        warnings.simplefilter("ignore", CnaLensWarning)
        with audit.watch(model, circuit, usual, on_alarm=lambda _: None) as watch:
            for request in requests:
                cna_lens.generate(model, [request], max_new_tokens=1)
                if watch.alarm is not None:
                    break
    return watch.alarm
