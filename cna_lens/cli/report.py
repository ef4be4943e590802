"""Write a report of finished results, with views of a model's tokens where one is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cna_lens.cli.options import load_quietly
from cna_lens.cli.render import console, print_report_path
from cna_lens.errors import InputError
from cna_lens.models.prompts.encoding import Prompt
from cna_lens.report.document import make_report
from cna_lens.report.reading import read_results
from cna_lens.results.circuit import Circuit


def run(
    results: Sequence[Path],
    out: Path,
    title: str,
    *,
    model: str | None = None,
    prompts: Sequence[Prompt] | None = None,
    device: str | None = None,
) -> None:
    """Read the results, write the report to `out`, and print where it is.

    Raises:
        InputError: there are no results, or token views are asked for and there is not exactly one
            circuit among the results.
    """
    found = read_results(results)
    report = make_report(found, title=title)
    if model is not None and prompts is not None:
        circuits = [each.result for each in found.results if isinstance(each.result, Circuit)]
        if len(circuits) != 1:
            raise InputError(
                f"there are {len(circuits)} circuits among the results; views of tokens show one: "
                "give one circuit file with --model and --prompts"
            )
        from cna_lens.report.tokens import token_section

        report = report.with_section(
            token_section(load_quietly(model, device), circuits[0], prompts)
        )
    report.save(out)
    for name, why in found.left_out:
        console.print(
            f"Not shown: {name}: {why}",
            style="yellow",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    print_report_path(out)
