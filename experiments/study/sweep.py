"""Sweeps: unsteered, CNA, CAA and a random control on the same requests, at some strengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from experiments.study.ablations import ablated
from experiments.study.cells import Cell, Steering, asked
from experiments.study.experiment import Experiment, Results
from experiments.study.outcomes import Outcome
from experiments.study.paper import Swept
from experiments.study.readings import caa, cna, of_answers, of_caa, of_circuits, random_control
from experiments.study.reporting import Row
from experiments.study.settings import Role, Study, Subject
from experiments.study.sources import Sources


def methods(study: Study) -> dict[str, Steering]:
    """The paper's two methods, by the name in its tables."""
    prompts = study.small_discovery
    return {"CNA": cna(study, prompts), "CAA": caa(study, prompts)}


def sweep_cells(
    study: Study, sources: Sources, subjects: Sequence[Subject], strengths: Sequence[float]
) -> list[Cell]:
    """Every method at every strength."""
    return [
        cell
        for subject in subjects
        for steering in methods(study).values()
        for strength in strengths
        for cell in asked(study, sources, "answers", subject, steering, strength)
    ]


def sweep_table(
    name: str,
    title: str,
    role: Role,
    figures: Mapping[str, Swept],
    *,
    unavailable: Callable[[Study], str | None] = lambda _: None,
    differences: tuple[str, ...] = (),
) -> Experiment:
    """Table 1 or 2: unsteered, both methods and the control at strength 1.

    Args:
        name: of the experiment.
        title: the subject of the table.
        role: which models.
        figures: the paper's.
        unavailable: why it cannot be run; None where it can.
        differences: further ones from the paper's set-up.
    """

    def control(study: Study) -> tuple[Steering, int]:
        return random_control(study, study.small_discovery), study.control_seeds[0]

    def cells(study: Study, sources: Sources) -> list[Cell]:
        subjects = study.subjects(role)
        random, seed = control(study)
        return sweep_cells(study, sources, subjects, (0.0, 1.0)) + [
            cell
            for subject in subjects
            for cell in asked(study, sources, "answers", subject, random, seed=seed)
        ]

    def found(results: Results) -> Iterator[Row]:
        study = results.study
        conditions = {method: (steering, 0) for method, steering in methods(study).items()}
        conditions["random neurons"] = control(study)
        for subject, before, after in ablated(results, conditions, role):
            yield from _rows(subject.label, before, after, figures.get(subject.pair.name))

    return Experiment(
        name,
        title,
        cells,
        found,
        lambda study, sources: (
            *of_answers(study, sources, study.small_discovery),
            *differences,
        ),
        roles=(role,),
        readings=(of_circuits, of_caa),
        unavailable=unavailable,
    )


def _rows(
    name: str, before: Outcome, after: Mapping[str, Outcome], theirs: Swept | None
) -> Iterator[Row]:
    """A model's lines in tables 1 and 2; the paper has no random control."""
    papers = theirs._asdict() if theirs else {}
    unsteered = papers.get("unsteered")
    yield Row(name, "refused, unsteered", before.refusal_rate, unsteered)
    yield Row(name, "quality, unsteered", before.mean_quality)
    for method, seen in after.items():
        refused, quality = (papers.get(f"{method.lower()}{part}") for part in ("", "_quality"))
        yield Row(name, f"refused, {method}", seen.refusal_rate, refused)
        if method != "random neurons":
            yield Row(
                name,
                f"change by {method}, McNemar p = {seen.p_value(before):.2g}",
                seen.refusals_since(before),
                None if unsteered is None or refused is None else refused - unsteered,
                share=True,
            )
        yield Row(name, f"quality, {method}", seen.mean_quality, quality)
