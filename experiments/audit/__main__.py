"""How well does the audit tell a tampered model from one that has merely changed?

    python -m experiments.audit run
    python -m experiments.audit analyse
    python -m experiments.audit evade
    python -m experiments.audit watch

The first audits every variant of the demo model that refuses, at all three access levels, and
measures by how much it moves the refusals; the second chooses thresholds on one half of the
variants and judges them on the other; the third lets an adversary try strengths until the audit is
silent, and put a fingerprint of its own in the genuine one's place. These write below `--out`, and
an interrupted run goes on from there. The last one watches a circuit while requests come in.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import cna_lens
from cna_lens import InputError, audit
from cna_lens.audit import ANSWER_TOKENS
from cna_lens.metrics import is_refusal
from cna_lens.models import HookedModel
from cna_lens.results import AnyNeuron, Journal, library_versions, read_journal
from experiments.audit.analysis import analysed
from experiments.audit.attacks import tampered
from experiments.audit.bench import FRACTIONS, REFERENCE, Bench
from experiments.audit.drifts import benign
from experiments.audit.evasion import attacks, evade, spoofed
from experiments.audit.running import Access, run
from experiments.audit.tables import show, show_evasion
from experiments.audit.watching import N_TRUSTED, watched
from experiments.shared.result_files import RESULTS, command, write_record

SPOOFED = ("adapter at 0", "adapter at 0.5", "relp 1.0% x 0 by weights")
"""Variants of which a reference is taken, as by who has put it in the genuine one's place."""

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
FOLDER = Path("out/audit_study")


@app.command("run")
def run_command(
    out: Out = FOLDER,
    n_prompts: Prompts = 24,
    only: Annotated[
        str | None, typer.Option(help="Only variants whose kind or name holds this.")
    ] = None,
) -> None:
    """Audit the variants that are not finished yet."""
    study = _Study(out, n_prompts)
    chosen = [
        variant
        for variant in (*benign(), *tampered())
        if only is None or only in variant.kind or only in variant.name
    ]
    run(chosen, study.bench, study.auditor, study.journal(RECORDS), n_prompts=n_prompts)


@app.command("analyse")
def analyse_command(
    out: Out = FOLDER, results: Results = RESULTS / "audit_study.json", seed: Seed = 0
) -> None:
    """Thresholds, areas, false alarms and time, from finished records."""
    depends_on, records = read_journal(out / RECORDS, "audit study")
    levels = analysed(records, seed=seed)
    for level in levels:
        show(level)
    evasions = out / EVASIONS
    record = {
        "command": command("experiments.audit"),
        "seed": seed,
        **depends_on,
        "levels": [asdict(level) for level in levels],
        "evasions": read_journal(evasions, "audit study")[1] if evasions.exists() else {},
    }
    write_record(results, record)


@app.command("evade")
def evade_command(out: Out = FOLDER, n_prompts: Prompts = 24, seed: Seed = 0) -> None:
    """The strongest attacks that stay below the thresholds that `analyse` chooses."""
    study = _Study(out, n_prompts)
    _, records = read_journal(out / RECORDS, "audit study")
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
    for row in spoofed(chosen, study.bench, _fingerprinted, journal):
        typer.echo(f"fingerprint taken of {row['name']}: {row['verdict']}")


@app.command("watch")
def watch_command(
    out: Out = FOLDER, results: Results = RESULTS / "audit_watch.json", seed: Seed = 0
) -> None:
    """After how many requests a watch of the circuit tells some variants from the reference."""
    bench = Bench(cna_lens.load_model(REFERENCE, device="cpu"), out)
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


@dataclass(frozen=True)
class Fingerprinted:
    """The audit, with the reference's fingerprint."""

    fingerprint: audit.Fingerprint

    @property
    def watched(self) -> frozenset[AnyNeuron]:
        """Every neuron whose activations stand in the fingerprint."""
        reference = self.fingerprint.reference
        return frozenset(map(reference.layout.neuron, reference.watched.places.tolist()))

    def observe(self, model: HookedModel, *, access: Access, **settings: Any) -> audit.Observation:
        """Look at a model."""
        return audit.observe(model, self.fingerprint, access=access, **settings)

    def judge(self, seen: audit.Observation, *, access: Access) -> audit.Attestation:
        """Compare what was seen."""
        if access == "answers":
            raise InputError("answers are asked for, not observed")
        return audit.judge(seen, self.fingerprint, access=access)

    def ask(self, model: HookedModel, **settings: Any) -> audit.AnswersAttestation:
        """Compare what it answers to the canaries."""
        prompts = audit.Canaries.packaged().prompts
        answers = cna_lens.generate(model, prompts, max_new_tokens=ANSWER_TOKENS, **settings)
        return audit.judge_refusals(
            list(map(is_refusal, answers)), self.fingerprint, model=REFERENCE
        )


def _fingerprinted(model: HookedModel) -> Fingerprinted:
    return Fingerprinted(audit.fingerprint(model))


class _Study:
    """The reference with its fingerprint, in the folder of a run."""

    def __init__(self, folder: Path, n_prompts: int) -> None:
        self.folder = folder
        self.n_prompts = n_prompts
        self.bench = Bench(cna_lens.load_model(REFERENCE, device="cpu"), folder)
        path = folder / FINGERPRINT
        if not path.exists():
            circuit = self.bench.circuit("contrast", min(FRACTIONS))
            audit.fingerprint(self.bench.model, circuit).save(path)
        self.auditor = Fingerprinted(audit.Fingerprint.load(path))

    def journal(self, name: str) -> Journal:
        """Records that depend on the reference, the fingerprint and the settings."""
        written = (self.folder / FINGERPRINT).read_bytes()
        depends_on = {
            "model": REFERENCE,
            "weights_sha256": cna_lens.weights_hash(self.bench.model),
            "fingerprint_sha256": hashlib.sha256(written).hexdigest(),
            "n_prompts": self.n_prompts,
            "n_pairs": self.bench.n_pairs,
            "versions": dict(library_versions()),
        }
        return Journal(self.folder / name, "audit study", depends_on)


if __name__ == "__main__":
    app()
