"""Which ranking finds the neurons that refusals depend on, at equal size?

    python -m experiments settle_rankings --config smollm2

The top neurons of each ranking are set to their means over benign prompts at the last prompt token,
where a refusal is decided; the figure is by how much that lowers the log-odds of a refusal.
"""

from __future__ import annotations

from cna_lens import Estimate, paired_bootstrap
from experiments.study.cells import UNSTEERED, Cell, Steering, asked
from experiments.study.experiment import Experiment, Results
from experiments.study.readings import discovery, of_answers, of_models
from experiments.study.reporting import Report, Row, excludes_zero, interval
from experiments.study.settings import Study, Subject
from experiments.study.sources import Sources

QUESTION = "Which ranking finds the neurons that refusals depend on, at equal size?"
RANKINGS = ("contrast", "standardized", "output_weighted", "attribution_patching", "relp")
SIGNS = ("abs", "positive")
PAPERS = ("contrast", "abs")


def _steering(study: Study, ranking: str, sign: str, fraction: float) -> Steering:
    found = discovery(study, study.discovery, ranking=ranking, sign=sign, fraction=fraction)
    return Steering("set_to_mean", found, positions="last_prompt")


def _cells(
    study: Study, sources: Sources, subject: Subject, steering: Steering, seed: int = 0
) -> list[Cell]:
    return asked(study, sources, "log_odds", subject, steering, seed=seed)


def cells(study: Study, sources: Sources) -> list[Cell]:
    """Each ranking at each size, both ways to heed its sign, and random rankings."""
    wanted: list[Cell] = []
    for subject in study.subjects("instruct"):
        wanted += _cells(study, sources, subject, UNSTEERED)
        for fraction in study.ranking_fractions:
            for ranking in RANKINGS:
                for sign in SIGNS:
                    steering = _steering(study, ranking, sign, fraction)
                    wanted += _cells(study, sources, subject, steering)
            for seed in study.control_seeds:
                steering = _steering(study, "random", "abs", fraction)
                wanted += _cells(study, sources, subject, steering, seed)
    return wanted


def report(study: Study, sources: Sources, results: Results) -> Report:
    """The drop of the log-odds for each ranking, and the best against the paper's."""
    rows: list[Row] = []
    answers: list[str] = []
    largest = max(study.ranking_fractions)

    def log_odds(subject: Subject, steering: Steering, seed: int = 0) -> list[float]:
        return results.joined(_cells(study, sources, subject, steering, seed), "log_odds")

    for subject in study.subjects("instruct"):
        before = log_odds(subject, UNSTEERED)
        drops: dict[tuple[str, str], Estimate] = {}
        after: dict[tuple[str, str], list[float]] = {}
        for fraction in study.ranking_fractions:
            for ranking in RANKINGS:
                for sign in SIGNS:
                    now = log_odds(subject, _steering(study, ranking, sign, fraction))
                    drop = paired_bootstrap(now, before, seed=study.seed)
                    rows.append(Row(subject.label, f"{ranking}, {sign}, {fraction:.2%}", drop))
                    if fraction == largest:
                        drops[ranking, sign], after[ranking, sign] = drop, now
            for seed in study.control_seeds:
                now = log_odds(subject, _steering(study, "random", "abs", fraction), seed)
                drop = paired_bootstrap(now, before, seed=study.seed)
                rows.append(Row(subject.label, f"random, seed {seed}, {fraction:.2%}", drop))
        best = max(drops, key=lambda name: drops[name].value)
        gain = paired_bootstrap(after[best], after[PAPERS], seed=study.seed)
        answers.append(_sentence(subject, largest, best, drops, gain))
    return Report(
        "settle_rankings",
        QUESTION,
        tuple(rows),
        differences=(
            *of_models(study, "instruct"),
            "the paper compares no rankings; values are nats of the log-odds of a refusal's first "
            "token, before less after",
            *of_answers(study, sources, study.discovery),
        ),
        answer=" ".join(answers),
    )


def _sentence(
    subject: Subject,
    fraction: float,
    best: tuple[str, str],
    drops: dict[tuple[str, str], Estimate],
    gain: Estimate,
) -> str:
    papers = f"the paper's contrast lowers the log-odds by {interval(drops[PAPERS])} nats"
    head = f"{subject.label}, {fraction:.2%} of the neurons: {papers}"
    if best == PAPERS:
        return f"{head}, and none of the {len(drops) - 1} others by more."
    clear = "more" if excludes_zero(gain) and gain.value > 0 else "not clearly more"
    return (
        f"{head}, {best[0]} ({best[1]}), the best of {len(drops)} on these requests, {clear}: by "
        f"{interval(drops[best])}, {interval(gain)} beyond the paper's."
    )


EXPERIMENT = Experiment("settle_rankings", QUESTION, cells, report)
