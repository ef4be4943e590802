"""`audit watch`: run requests one by one, and watch a circuit while they run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal, cast

import typer
from tqdm.auto import tqdm

from cna_lens import audit
from cna_lens.cli.options import read_source
from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Prompt
from cna_lens.models.running.generation import generate
from cna_lens.results.circuit import Circuit

STDIN = "-"

Verdict = Literal["no alarm", "alarm", "too few requests"]

EXIT_CODES: Final[Mapping[Verdict, int]] = {"no alarm": 0, "alarm": 1, "too few requests": 2}


def requests_of(source: str) -> Iterator[Prompt]:
    """Read requests from a file or data set, or from standard input, one per line as they arrive.

    Raises:
        InputError: as `read_source`, before the first request.
    """
    if source != STDIN:
        return iter(read_source(source))
    return (line.strip() for line in sys.stdin if line.strip())


def watch_requests(
    model: HookedModel,
    circuit: Circuit,
    requests: Iterator[Prompt],
    usual: audit.Histograms | None,
    *,
    false_alarm_rate: float,
    out: Path | None,
    allow_other_model: bool,
    progress: bool,
    metrics: tuple[int, str] | None = None,
) -> tuple[audit.Watch, bool]:
    """Run requests one by one and in order, until an alarm, their end, or Ctrl-C.

    If metrics are served, at a port and a host, the watch goes on after an alarm: otherwise the
    alarm would be gone before the next scrape.

    The counts are written to `out` unless there was an alarm: the counts of a changed model must
    not become the usual ones.

    Returns:
        The watch, and whether its counts were written.

    Raises:
        InputError: the model cannot take a request; the message gives its number.
    """
    with audit.watch(
        model,
        circuit,
        usual,
        false_alarm_rate=false_alarm_rate,
        on_alarm=lambda _: None,
        allow_other_model=allow_other_model,
    ) as watched:
        served = nullcontext() if metrics is None else audit.serve_metrics(watched, *metrics)
        try:
            with served as url, suppress(KeyboardInterrupt):
                if url is not None:
                    typer.echo(f"Metrics at {url}", err=True)
                _ask(model, requests, watched, progress, until_alarm=metrics is None)
        finally:
            written = out is not None and watched.alarm is None and watched.n_requests > 0
            if written:
                watched.histograms.save(cast("Path", out))
    return watched, written


def _ask(
    model: HookedModel,
    requests: Iterator[Prompt],
    watched: audit.Watch,
    progress: bool,
    *,
    until_alarm: bool,
) -> None:
    for request in tqdm(requests, "watching", unit="request", disable=not progress):
        try:
            generate(model, [request], max_new_tokens=1)
        except InputError as error:
            number = watched.n_requests + 1
            raise InputError(f"request {number} cannot be asked: {error}") from error
        if until_alarm and watched.alarm is not None:
            return


def verdict_of(watched: audit.Watch, least: int) -> Verdict:
    """Return the verdict; no alarm on fewer than `least` requests is no evidence."""
    if watched.alarm is not None:
        return "alarm"
    return "no alarm" if watched.n_requests >= least else "too few requests"


def watch_record(watched: audit.Watch, verdict: Verdict) -> dict[str, Any]:
    """Return a watch as plain data."""
    alarm = watched.alarm
    return {
        "verdict": verdict,
        "requests": watched.n_requests,
        "evidence": watched.evidence,
        "alarm": None
        if alarm is None
        else {**asdict(alarm), "neurons": [each._asdict() for each in alarm.neurons]},
    }
