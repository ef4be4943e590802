"""How far each candidate finds the planted neurons of the models for tuning."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import cna_lens
from cna_lens import InputError, LogOdds
from cna_lens.discovery import Ranking
from cna_lens.evidence import counted, recovery
from cna_lens.metrics import BEHAVIOURS, Behaviour
from cna_lens.models import planting, weights_hash
from cna_lens.results import Journal, library_versions
from experiments.planted.recipes import NOTHING
from experiments.planted.trials.catalogue import CANDIDATES

NOTHING_PLANTED: Final = f"planted/{NOTHING}-138-all-0"
"""Where no candidate may find the neurons that were changed."""


def figures(
    models: Sequence[str],
    candidates: Sequence[str],
    journal: Path | None,
    started: Callable[[str], None] = lambda _: None,
) -> Iterator[dict[str, Any]]:
    """One row for each model and candidate; finished ones are taken from the journal.

    A candidate reads the discovery prompts of the model's behaviour, and its metric are the
    log-odds of the behaviour's first tokens. On `planted/nothing-138-all-0`, where nothing is
    planted, it reads those about cooking.

    Args:
        models: planted models for tuning, or without a behaviour.
        candidates: names in `CANDIDATES`.
        journal: a file of finished rows, from which an interrupted run goes on.
        started: is told what runs next.

    Raises:
        InputError: a model is to be reported on, or there is no such candidate.
    """
    for name in models:
        planted = planting(name)
        if planted.split != "tuning" and planted.behaviour is not None:
            raise InputError(f"{name} is of the split {planted.split!r}; trials are for 'tuning'")
    if unknown := [each for each in candidates if each not in CANDIDATES]:
        raise InputError(f"there is no candidate {unknown[0]!r}; there are {', '.join(CANDIDATES)}")
    depends_on = {"versions": dict(library_versions())}
    known = Journal(journal, "trials", depends_on)
    for name in models:
        model = None
        for candidate in candidates:
            ranking = CANDIDATES[candidate](LogOdds(_behaviour(name).openings))
            key = f"{name} {candidate} {_code(ranking)}"
            if key not in known:
                model = model or cna_lens.load_model(name, device="cpu")
                started(f"{name}: {candidate}")
                known.add(key, _row(model, name, candidate, ranking))
            yield dict(known[key])


def _behaviour(name: str) -> Behaviour:
    return BEHAVIOURS[planting(name).behaviour or "french"]


def _row(model: Any, name: str, candidate: str, ranking: Ranking) -> dict[str, Any]:
    asked = _behaviour(name).discovery
    with counted(model, asked.positive, asked.negative) as cost:
        scores = cna_lens.score_neurons(model, asked.positive, asked.negative, ranking)
    found, spent = asdict(recovery(scores, cna_lens.planted_truth(name))), cost()
    return {
        "model": name,
        "candidate": candidate,
        "settings": scores.provenance.rank,
        **{part: found[part] for part in ("k", "overall", "within_layers")},
        "forward": spent.forward,
        "backward": spent.backward,
        "seconds": round(spent.seconds, 1),
        "model_sha256": weights_hash(model),
    }


def _code(ranking: Ranking) -> str:
    """The hash of the ranking's settings and of its members' files: an edited one runs again."""
    files = sorted({Path(inspect.getfile(type(each))) for each in _parts(ranking)})
    content = repr(ranking).encode() + b"".join(file.read_bytes() for file in files)
    return hashlib.sha256(content).hexdigest()[:16]


def _parts(ranking: Ranking) -> Iterator[Ranking]:
    yield ranking
    for value in vars(ranking).values():
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Ranking):
                yield from _parts(each)
