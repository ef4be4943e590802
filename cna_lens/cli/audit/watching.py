"""`audit watch`: requests that were asked, or are being asked, as a circuit sees them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

from tqdm.auto import tqdm

from cna_lens import audit
from cna_lens.cli.sources import read_source
from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Prompt
from cna_lens.models.running.generation import generate
from cna_lens.results.circuit import Circuit

STDIN = "-"

Said = Literal["no alarm", "alarm", "too few requests"]


def requests_of(source: str) -> Iterator[Prompt]:
    """The requests of a file or data set; of standard input, one a line, as they come.

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
) -> tuple[audit.Watch, bool]:
    """Run requests one by one, in their order, to an alarm, to their end, or to Ctrl-C.

    Whatever ends it, the counts are written to `out`, unless there was an alarm: what a changed
    model does must not become the usual.

    Returns:
        The watch, and whether its counts were written.

    Raises:
        InputError: a request that the model cannot take, by its number.
    """
    with audit.watch(
        model,
        circuit,
        usual,
        false_alarm_rate=false_alarm_rate,
        on_alarm=lambda _: None,
        allow_other_model=allow_other_model,
    ) as watched:
        try:
            with suppress(KeyboardInterrupt):
                _ask(model, requests, watched, progress)
        finally:
            written = out is not None and watched.alarm is None and watched.n_requests > 0
            if written:
                watched.histograms.save(cast("Path", out))
    return watched, written


def _ask(
    model: HookedModel, requests: Iterator[Prompt], watched: audit.Watch, progress: bool
) -> None:
    for request in tqdm(requests, "watching", unit="request", disable=not progress):
        try:
            generate(model, [request], max_new_tokens=1)
        except InputError as error:
            number = watched.n_requests + 1
            raise InputError(f"request {number} cannot be asked: {error}") from error
        if watched.alarm is not None:
            return


def said(watched: audit.Watch, least: int) -> Said:
    """What a watch says: silence on few requests says nothing."""
    if watched.alarm is not None:
        return "alarm"
    return "no alarm" if watched.n_requests >= least else "too few requests"


def watch_record(watched: audit.Watch, verdict: Said) -> dict[str, Any]:
    """A watch as plain data."""
    alarm = watched.alarm
    return {
        "verdict": verdict,
        "requests": watched.n_requests,
        "evidence": watched.evidence,
        "alarm": None
        if alarm is None
        else {**asdict(alarm), "neurons": [each._asdict() for each in alarm.neurons]},
    }
