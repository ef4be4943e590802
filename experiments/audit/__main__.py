"""How well does the audit separate tampered models from models that have merely changed?

    python -m experiments.audit run
    python -m experiments.audit run --model demo-refusal-late --set new --first 2
    python -m experiments.audit analyse
    python -m experiments.audit analyse --out out/one_model --out out/another --half second
    python -m experiments.audit analyse --out out/one_model --half both --earlier figures.json
    python -m experiments.audit evade
    python -m experiments.audit watch
    python -m experiments.audit ask --model demo-refusal-late --first 1
    python -m experiments.audit identify --out out/one_model --out out/another

`run` audits every variant of a model that refuses, at all three access levels, and measures its
effect on refusals; of a model that is only served in another way it audits the answers. Variants
come with one of each kind in turn. `analyse` chooses thresholds on some variants and judges others
with them: halves, and kinds of attack and models that took no part. It reads one half of all
variants, by kind, unless `--half` says otherwise, so that rules can be frozen before the second
half is read; `--unseen-by` leaves out what was seen before the rules were made. `--earlier` adds
models whose records are not at hand, from the figures of an analysis that read both halves. `evade`
lets an adversary try strengths until the audit is silent, and replace the genuine fingerprint by
its own. Each model has a folder, in which an interrupted run goes on. `watch` watches a circuit
while requests come in. `ask` lets variants answer sensitive canaries, as an endpoint is asked, and
goes on where it was interrupted; `identify` says how well these answers tell them apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import cna_lens
from cna_lens import InputError, audit
from cna_lens.results import Journal, library_versions, read_journal
from experiments.audit.analysis import analysed
from experiments.audit.attacks import tampered
from experiments.audit.bench import FRACTIONS, Bench
from experiments.audit.drifts import benign
from experiments.audit.evasion import attacks, evade, spoofed
from experiments.audit.halves import Half
from experiments.audit.identifying import STUDY, Asked, ask, reaches
from experiments.audit.reading import Earlier, Reading, seen_in
from experiments.audit.references import REFERENCE, REFERENCES, Reference, reference_of
from experiments.audit.running import Auditor, run
from experiments.audit.sets import VariantSet, variants_of
from experiments.audit.tables import show, show_evasion, show_held_out, show_reach
from experiments.audit.variants import Variant
from experiments.audit.watching import N_TRUSTED, watched
from experiments.shared.result_files import RESULTS, command, write_record

SPOOFED = ("adapter at 0", "adapter at 0.5", "relp 1.0% x 0 by weights")
"""Variants whose fingerprint an adversary puts in the place of the genuine one."""

WATCHED = (
    *("untouched", "stored in bfloat16", "adapter at 0", "adapter at 0.5", "adapter at 0.75"),
    *("contrast 0.3% x 0.5 by hooks", "relp 1.0% x 0 by weights", "CAA, MLPs, 0.5, biases"),
    *("direction erased 1 in weights", "fine-tune on prose, 0.0005, seed 4"),
)

RECORDS, EVASIONS, FINGERPRINT = "records.jsonl", "evasions.jsonl", "fingerprint.json"

app = typer.Typer(help=__doc__, rich_markup_mode=None)
Out = Annotated[Path, typer.Option(help="Folder of the records.")]
Results = Annotated[Path, typer.Option(help="The JSON file of the figures.")]
Seed = Annotated[int, typer.Option(help="Of the halves and the bootstrap.")]
Prompts = Annotated[int, typer.Option(help="Held-out harmful requests.", min=2, max=60)]
OutOfModel = Annotated[
    Path | None, typer.Option(help="Folder of the records, by default one for each model.")
]
Folders = Annotated[
    list[Path] | None,
    typer.Option(help="Folder of the records; repeat it, with a folder for each model."),
]
Model = Annotated[str, typer.Option(help="A model of the study.")]
Which = Annotated[VariantSet, typer.Option("--set", help="Which variants.")]
First = Annotated[int | None, typer.Option(help="Only so many variants of each kind.", min=1)]
Only = Annotated[str | None, typer.Option(help="Only variants whose kind or name holds this.")]
FOLDER = Path("out/audit_study")
OF_REFERENCE = FOLDER / REFERENCE


@app.command("run")
def run_command(
    out: OutOfModel = None,
    model: Model = REFERENCE,
    n_prompts: Prompts = 24,
    which: Which = VariantSet.ALL,
    first: First = None,
    only: Only = None,
) -> None:
    """Audit the variants that are not finished yet."""
    reference = reference_of(model)
    study = _Study(out or FOLDER / reference.folder_name, n_prompts, reference)
    chosen = _matching(variants_of(which, first), only)
    run(chosen, study.bench, study.auditor, study.journal(RECORDS), n_prompts=n_prompts)


def _matching(variants: Sequence[Variant], only: str | None) -> list[Variant]:
    return [
        variant
        for variant in variants
        if only is None or only in variant.kind or only in variant.name
    ]


@app.command("analyse")
def analyse_command(
    out: Folders = None,
    results: Results = RESULTS / "audit_study.json",
    seed: Seed = 0,
    half: Annotated[
        Half,
        typer.Option(help="Which half of the variants to read; the second only for frozen rules."),
    ] = "first",
    unseen_by: Annotated[
        Path | None,
        typer.Option(help="Leave out the variants that this file of earlier figures lists."),
    ] = None,
    earlier: Annotated[
        Path | None,
        typer.Option(help="Figures of an analysis of other models, read beside the records."),
    ] = None,
) -> None:
    """Thresholds, areas, false alarms and time, from finished records."""
    folders = out or [OF_REFERENCE]
    studies = [read_journal(folder / RECORDS, STUDY) for folder in folders]
    seen = () if unseen_by is None else seen_in(json.loads(unseen_by.read_text(encoding="utf-8")))
    before = None
    if earlier is not None:
        before = Earlier.of(json.loads(earlier.read_text(encoding="utf-8")))
    read = Reading.of([records for _, records in studies], half, seed, seen, before)
    for level in read.levels:
        show(level)
    show_held_out(read.held_out)
    if (refuses := read.still_refuses) is not None:
        typer.echo(
            f"a fifth of the refusals lost: the check of lost refusals speaks on {refuses.found}; "
            f"fewer lost: on {refuses.alarmed}; rank correlation {refuses.correlation:.2f}. By "
            f"weights, alarms where a fifth is lost: {refuses.by_verdict}; on drifts that lose "
            f"fewer: {refuses.drifts_alarmed}; balanced accuracy {refuses.balanced}"
        )
    evasions = [folder / EVASIONS for folder in folders]
    record = {
        "command": command("experiments.audit"),
        "seed": seed,
        **read.record(),
        "studies": [
            *(() if before is None else before.studies),
            *(
                {
                    **depends_on,
                    "evasions": read_journal(path, STUDY)[1] if path.exists() else {},
                }
                for (depends_on, _), path in zip(studies, evasions, strict=True)
            ),
        ],
    }
    write_record(results, record)


@app.command("evade")
def evade_command(out: Out = OF_REFERENCE, n_prompts: Prompts = 24, seed: Seed = 0) -> None:
    """The strongest attacks that stay below the thresholds that `analyse` chooses."""
    study = _Study(out, n_prompts)
    _, records = read_journal(out / RECORDS, STUDY)
    journal = study.journal(EVASIONS)
    for level in analysed(records, seed=seed):
        found = evade(
            attacks(study.auditor.watched),
            study.bench,
            study.auditor,
            level.access,
            level.threshold,
            journal,
            n_prompts=n_prompts,
        )
        show_evasion(found, records["untouched | behaviour"]["log_odds"], level)
    chosen = [variant for variant in tampered() if variant.name in SPOOFED]
    for row in spoofed(chosen, study.bench, Auditor.of, journal):
        typer.echo(f"fingerprint taken of {row['name']}: {row['verdict']}")


@app.command("watch")
def watch_command(
    out: Out = OF_REFERENCE, results: Results = RESULTS / "audit_watch.json", seed: Seed = 0
) -> None:
    """Count the requests until a watch of the circuit raises its alarm, for some variants."""
    bench = Bench.of(reference_of(REFERENCE), out)
    circuit = bench.circuit("contrast", min(FRACTIONS))
    chosen = [variant for variant in (*benign(), *tampered()) if variant.name in WATCHED]
    found = watched(chosen, bench, circuit, seed=seed)
    for row in found:
        said = "no alarm" if row["alarm_after"] is None else f"alarm after {row['alarm_after']}"
        typer.echo(f"{row['name']}: {said} of {row['n_requests']} requests")
    record = {
        "command": command("experiments.audit"),
        "seed": seed,
        "n_trusted": N_TRUSTED,
        "weights_sha256": cna_lens.weights_hash(bench.model),
        "versions": dict(library_versions()),
        "watched": found,
    }
    write_record(results, record)


@app.command("ask")
def ask_command(
    out: OutOfModel = None,
    model: Model = REFERENCE,
    n_prompts: Prompts = 24,
    which: Which = VariantSet.ALL,
    first: First = None,
    only: Only = None,
) -> None:
    """Let the variants that are not finished yet answer sensitive canaries.

    Variants that are only served in another way are left out: their model is the same.
    """
    reference = reference_of(model)
    bench = Bench.of(reference, out or FOLDER / reference.folder_name)
    chosen = _matching(variants_of(which, first), only)
    ask([each for each in chosen if each.side == "model"], bench, n_prompts=n_prompts)


@app.command("identify")
def identify_command(
    out: Folders = None,
    results: Results = RESULTS / "audit_identity.json",
    seed: Annotated[int, typer.Option(help="Of the orders of the canaries.")] = 0,
) -> None:
    """How well answers to sensitive canaries tell variants apart, from finished records."""
    asked = [Asked.read(folder) for folder in out or [OF_REFERENCE]]
    found = reaches(asked, seed=seed)
    if not found:
        raise InputError("no attack is beyond noise; ask more variants")
    show_reach(found)
    record = {
        "command": command("experiments.audit"),
        "seed": seed,
        "reach": [asdict(each) for each in found],
        "studies": [
            {
                **each.depends_on,
                "drifted": [asdict(drifted) for drifted in each.canaries.drifted],
                "n_pool": each.canaries.n_pool,
                "n_stable": each.canaries.n_stable,
                "attacks_beyond_noise": each.attacks,
                "same_model": each.same,
                "variants": list(each.records.values()),
            }
            for each in asked
        ],
    }
    write_record(results, record)


class _Study:
    """The reference with its fingerprint, in the folder of a run."""

    def __init__(
        self, folder: Path, n_prompts: int, reference: Reference = REFERENCES[REFERENCE]
    ) -> None:
        self.folder = folder
        self.n_prompts = n_prompts
        self.bench = Bench.of(reference, folder)
        path = folder / FINGERPRINT
        if not path.exists():
            circuit = self.bench.circuit("contrast", min(FRACTIONS))
            audit.fingerprint(self.bench.model, circuit).save(path)
        self.auditor = Auditor(audit.Fingerprint.load(path))

    def journal(self, name: str) -> Journal:
        """Records that depend on the reference, the fingerprint and the settings."""
        written = (self.folder / FINGERPRINT).read_bytes()
        depends_on = {
            "model": self.bench.reference.name,
            "weights_sha256": cna_lens.weights_hash(self.bench.model),
            "fingerprint_sha256": hashlib.sha256(written).hexdigest(),
            "n_prompts": self.n_prompts,
            "n_pairs": self.bench.n_pairs,
            "samples": 1,
            "versions": dict(library_versions()),
        }
        return Journal(self.folder / name, STUDY, depends_on)


if __name__ == "__main__":
    app()
