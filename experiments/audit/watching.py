"""Number of requests until a watch raises its alarm on each variant."""

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
    """Requests of a trusted period and later ones: packaged, harmful and benign, shuffled."""
    sets = [prompt_set(name) for name in ("refusal", "refusal_evaluation")]
    requests = [prompt for each in sets for prompt in (*each.positive, *each.negative)]
    random.Random(seed).shuffle(requests)
    return requests[:N_TRUSTED], requests[N_TRUSTED:]


def watched(
    variants: Sequence[Variant], bench: Bench, circuit: Circuit, *, seed: int = 0
) -> list[dict[str, Any]]:
    """The number of the request that raised the alarm on each variant; None without an alarm.

    Args:
        variants: the watched models; all start with the same trusted counts.
        bench: the parts of variants.
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
        # It warns that the circuit was found on other weights, which is intended here.
        warnings.simplefilter("ignore", CnaLensWarning)
        with audit.watch(model, circuit, usual, on_alarm=lambda _: None) as watch:
            for request in requests:
                cna_lens.generate(model, [request], max_new_tokens=1)
                if watch.alarm is not None:
                    break
    return watch.alarm
