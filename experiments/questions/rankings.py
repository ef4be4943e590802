"""Which ranking finds the neurons that refusals depend on, at equal size?

    python -m experiments settle_rankings --config smollm2

The top neurons of each ranking are set to their means over benign prompts at the last prompt token,
where a refusal is decided; measured is the drop of the log-odds of a refusal.
`experiments.demo.rankings` asks the same of one model, at more positions and with more signs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cna_lens import Estimate, paired_bootstrap
from experiments.shared.rankings import QUESTION, RANKINGS
from experiments.study.cells import UNSTEERED, Cell, Steering, asked
from experiments.study.experiment import Experiment, Finding, Results
from experiments.study.readings import discovery, of_answers
from experiments.study.reporting import Row, excludes_zero, interval
from experiments.study.settings import Study, Subject
from experiments.study.sources import Sources

SIGNS = ("abs", "positive")
PAPERS = "contrast, abs"


def conditions(study: Study, fraction: float) -> dict[str, tuple[Steering, int]]:
    """Steering and seed: each ranking by both readings of its sign, and random rankings."""

    def steering(ranking: str, sign: str) -> Steering:
        found = discovery(study, study.discovery, ranking=ranking, sign=sign, fraction=fraction)
        return Steering("set_to_mean", found, positions="last_prompt")

    return {
        f"{ranking}, {sign}": (steering(ranking, sign), 0) for ranking in RANKINGS for sign in SIGNS
    } | {f"random, seed {seed}": (steering("random", "abs"), seed) for seed in study.control_seeds}


def _cells(
    study: Study, sources: Sources, subject: Subject, steering: Steering, seed: int = 0
) -> list[Cell]:
    return asked(study, sources, "log_odds", subject, steering, seed=seed)


def cells(study: Study, sources: Sources) -> list[Cell]:
    """Each condition at each size, beside the unsteered model."""
    return [
        cell
        for subject in study.subjects("instruct")
        for steering, seed in (
            (UNSTEERED, 0),
            *(
                condition
                for fraction in study.ranking_fractions
                for condition in conditions(study, fraction).values()
            ),
        )
        for cell in _cells(study, sources, subject, steering, seed)
    ]


def found(results: Results) -> Iterator[Finding]:
    """The drop of the log-odds for each ranking, and the best against the paper's."""
    study = results.study

    def log_odds(subject: Subject, steering: Steering, seed: int = 0) -> list[float]:
        return results.joined(_cells(study, results.sources, subject, steering, seed), "log_odds")

    for subject in study.subjects("instruct"):
        before = log_odds(subject, UNSTEERED)
        after: dict[float, dict[str, list[float]]] = {}
        drops: dict[float, dict[str, Estimate]] = {}
        for fraction in study.ranking_fractions:
            after[fraction] = {
                name: log_odds(subject, *condition)
                for name, condition in conditions(study, fraction).items()
            }
            drops[fraction] = {
                name: paired_bootstrap(now, before, seed=study.seed)
                for name, now in after[fraction].items()
            }
            for name, drop in drops[fraction].items():
                yield Row(subject.label, f"{name}, {fraction:.2%}", drop)
        largest = max(study.ranking_fractions)
        yield (
            f"{subject.label}, {largest:.2%} of the neurons: "
            f"{_sentence(drops[largest], after[largest], study.seed)}"
        )


def _sentence(drops: Mapping[str, Estimate], after: Mapping[str, list[float]], seed: int) -> str:
    ranked = {name: drop for name, drop in drops.items() if not name.startswith("random")}
    best = max(ranked, key=lambda name: ranked[name].value)
    head = f"the paper's contrast lowers the log-odds by {interval(ranked[PAPERS])} nats"
    if best == PAPERS:
        return f"{head}, and none of the {len(ranked) - 1} others by more."
    gain = paired_bootstrap(after[best], after[PAPERS], seed=seed)
    clear = "more" if excludes_zero(gain) and gain.value > 0 else "not clearly more"
    ranking, sign = best.split(", ")
    return (
        f"{head}, {ranking} ({sign}), the best of {len(ranked)} on these requests, {clear}: by "
        f"{interval(ranked[best])}, {interval(gain)} beyond the paper's."
    )


EXPERIMENT = Experiment(
    "settle_rankings",
    QUESTION,
    cells,
    found,
    lambda study, sources: (
        "the paper compares no rankings; values are nats of the log-odds of a refusal's first "
        "token, before less after",
        *of_answers(study, sources, study.discovery),
    ),
    readings=(),
)
