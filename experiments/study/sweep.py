"""Sweeps: unsteered, CNA, CAA and a random control on the same requests, at some strengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from experiments.study.cells import Cell, Steering, asked
from experiments.study.experiment import Experiment, Results
from experiments.study.outcomes import outcome
from experiments.study.paper import Swept
from experiments.study.readings import (
    caa,
    cna,
    of_answers,
    of_caa,
    of_circuits,
    of_models,
    random_control,
)
from experiments.study.reporting import Report, Row
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
    unavailable: Callable[[Study], str | None] = lambda study: None,  # noqa: ARG005
    differences: tuple[str, ...] = (),
) -> Experiment:
    """Table 1 or 2: everything at strength 1.

    Args:
        name: of the experiment.
        title: what it shows.
        role: which models.
        figures: the paper's.
        unavailable: why it cannot be run, None where it can.
        differences: further ones from the paper's set-up.
    """

    def cells(study: Study, sources: Sources) -> list[Cell]:
        subjects = study.subjects(role)
        control = random_control(study, study.small_discovery)
        seed = study.control_seeds[0]
        return sweep_cells(study, sources, subjects, (0.0, 1.0)) + [
            cell
            for subject in subjects
            for cell in asked(study, sources, "answers", subject, control, seed=seed)
        ]

    def report(study: Study, sources: Sources, results: Results) -> Report:
        return Report(
            name,
            title,
            tuple(
                row
                for subject in study.subjects(role)
                for row in _rows(study, sources, results, subject, figures.get(subject.pair.name))
            ),
            differences=(
                *of_models(study, role),
                *of_answers(study, sources, study.small_discovery),
                *differences,
            ),
            readings=(*of_circuits(study), *of_caa(study)),
        )

    return Experiment(name, title, cells, report, unavailable)


def _rows(
    study: Study,
    sources: Sources,
    results: Results,
    subject: Subject,
    theirs: Swept | None,
) -> list[Row]:
    """A model's lines in tables 1 and 2."""
    at_one = {
        name: outcome(study, sources, results, subject, steering)
        for name, steering in methods(study).items()
    }
    unsteered = outcome(study, sources, results, subject)
    control = outcome(
        study,
        sources,
        results,
        subject,
        random_control(study, study.small_discovery),
        seed=study.control_seeds[0],
    )
    paper = {
        "CNA": (theirs.cna, theirs.cna_quality) if theirs else (None, None),
        "CAA": (theirs.caa, theirs.caa_quality) if theirs else (None, None),
    }
    name = subject.label
    rows = [
        Row(name, "refused, unsteered", unsteered.refusal_rate, theirs and theirs.unsteered),
        Row(name, "quality, unsteered", unsteered.mean_quality),
    ]
    for method, seen in at_one.items():
        refused, quality = paper[method]
        rows += [
            Row(name, f"refused, {method}", seen.refusal_rate, refused),
            Row(
                name,
                f"change by {method}, McNemar p = {seen.p_value(unsteered):.2g}",
                seen.refusals_since(unsteered),
                None if theirs is None or refused is None else refused - theirs.unsteered,
                share=True,
            ),
            Row(name, f"quality, {method}", seen.mean_quality, quality),
        ]
    return [
        *rows,
        Row(name, "refused, random neurons", control.refusal_rate),
        Row(name, "quality, random neurons", control.mean_quality),
    ]
