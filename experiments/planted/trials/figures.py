"""How far each candidate finds the planted neurons of the models for tuning."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import cna_lens
from cna_lens import Contrast, InputError, LogOdds
from cna_lens.discovery import Ranking
from cna_lens.evidence import Cost, Recovery, counted, recovery
from cna_lens.metrics import BEHAVIOURS, Behaviour
from cna_lens.models import diverse_prompts, encode, planting, planting_sha256, weights_hash
from cna_lens.results import Journal, NeuronScores, library_versions
from experiments.planted.recipes import NOTHING
from experiments.planted.trials.catalogue import CANDIDATES
from experiments.planted.trials.combined import Combined

N_PROMPTS: Final = 24
"""Discovery prompts of each kind that a candidate reads."""
NOTHING_PLANTED: Final = f"planted/{NOTHING}-138-all-0"
"""Where no candidate may find the neurons that were changed."""
SOURCES: Final = (
    Path(__file__).parent,
    Path(inspect.getfile(Ranking)).parents[1],
    Path(inspect.getfile(Recovery)),
    Path(inspect.getfile(Cost)),
)
"""Code on which every row depends: the trials, the discovery room, and what measures them."""


def figures(
    models: Sequence[str],
    candidates: Sequence[str],
    journal: Path | None,
    started: Callable[[str], None] = lambda _: None,
) -> Iterator[dict[str, Any]]:
    """One row for each model and candidate; finished ones are taken from the journal.

    A candidate reads the first discovery prompts of the model's behaviour. Its metric is the
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
    depends_on = {"versions": dict(library_versions()), "n_prompts": N_PROMPTS}
    known = Journal(journal, "trials", depends_on)
    for name in models:
        bench = None
        on = f"{name} {planting_sha256(name)} {_prompts_hash(name)} {_hash(SOURCES)}"
        for candidate in candidates:
            ranking = CANDIDATES[candidate](LogOdds(_behaviour(name).openings))
            key = f"{on} {candidate} {ranking!r}"
            if key not in known:
                bench = bench or _Bench(name)
                started(f"{name}: {candidate}")
                known.add(key, bench.row(candidate, ranking))
            yield dict(known[key])


def _behaviour(name: str) -> Behaviour:
    return BEHAVIOURS[planting(name).behaviour or "french"]


class _Bench:
    """A planted model, and the scores that were computed on it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.model = cna_lens.load_model(name, device="cpu")
        self.truth = cna_lens.planted_truth(name)
        asked = _behaviour(name).discovery
        self.prompts = asked.positive[:N_PROMPTS], asked.negative[:N_PROMPTS]
        encoded = [encode(self.model, prompts).ids for prompts in self.prompts]
        self.n_tokens = sum(len(ids) for each in encoded for ids in each)
        self.found: dict[Ranking, tuple[NeuronScores, Cost]] = {}

    def row(self, candidate: str, ranking: Ranking) -> dict[str, Any]:
        scores, cost = self.scored(ranking)
        found = asdict(recovery(scores, self.truth))
        return {
            "model": self.name,
            "candidate": candidate,
            "settings": repr(ranking),
            **{part: found[part] for part in ("k", "overall", "within_layers")},
            "forward": cost.forward,
            "backward": cost.backward,
            "seconds": round(cost.seconds, 1),
            "model_sha256": weights_hash(self.model),
        }

    def scored(self, ranking: Ranking) -> tuple[NeuronScores, Cost]:
        """The scores and their cost; what several combinations have as a part runs once."""
        if ranking not in self.found:
            run = self._combined if isinstance(ranking, Combined) else self._run
            self.found[ranking] = run(ranking)
        return self.found[ranking]

    def _run(self, ranking: Ranking) -> tuple[NeuronScores, Cost]:
        with counted(self.model, self.n_tokens) as cost:
            scores = cna_lens.score_neurons(self.model, *self.prompts, ranking)
        return scores, cost()

    def _combined(self, ranking: Combined) -> tuple[NeuronScores, Cost]:
        parts = [self.scored(part) for part in ranking.parts()]
        values = ranking.combine([scores for scores, _ in parts])
        # Each part's cost has the reading of both sets in it, which a combination does once.
        _, reading = self.scored(Contrast())
        cost = sum((_without(cost, reading) for _, cost in parts), reading)
        layout = parts[0][0].layout
        return NeuronScores(values, layout, ranking.name, ranking.unit), cost


def _without(cost: Cost, reading: Cost) -> Cost:
    """A cost without that of reading both sets; two times differ by chance, so never below 0."""
    return Cost(
        max(0.0, cost.forward - reading.forward),
        max(0.0, cost.backward - reading.backward),
        max(0.0, cost.seconds - reading.seconds),
    )


def _hash(sources: Sequence[Path]) -> str:
    """The hash of files, and of all Python files of folders."""
    files = [file for each in sources for file in (each.rglob("*.py") if each.is_dir() else [each])]
    digests = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def _prompts_hash(name: str) -> str:
    """The hash of the prompts that a model's candidates read."""
    asked = _behaviour(name).discovery
    read = list(asked.positive), list(asked.negative), list(diverse_prompts())
    return hashlib.sha256(repr(read).encode()).hexdigest()[:16]
