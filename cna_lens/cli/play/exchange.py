"""One prompt of `play`, its two answers as they are written, and the file they may go to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cna_lens.cli.play.settings import Settings
from cna_lens.metrics.evaluation import NOTICE
from cna_lens.metrics.refusal.rules import is_refusal
from cna_lens.results.files import write_atomically


@dataclass(frozen=True)
class Written:
    """An answer, as far as it is written.

    Attributes:
        text: so far.
        log_odds: that it begins as a refusal, in nats; None before the model has read the prompt.
        finished: whether it has come to its end.
    """

    text: str = ""
    log_odds: float | None = None
    finished: bool = False

    @property
    def refused(self) -> bool:
        """Whether it opens with a refusal, by what is there."""
        return is_refusal(self.text)


@dataclass(frozen=True)
class Exchange:
    """A prompt with both answers.

    Attributes:
        prompt: what was typed.
        settings: how the second answer is steered.
        unsteered: the answer without steering.
        steered: the answer with it.
    """

    prompt: str
    settings: Settings
    unsteered: Written = field(default_factory=Written)
    steered: Written = field(default_factory=Written)


def save_exchanges(path: Path, exchanges: Sequence[Exchange]) -> None:
    """Write them as JSON lines, texts included, the first line of which says what the file is."""
    rows = [{"notice": NOTICE}, *map(asdict, exchanges)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    write_atomically(path, "".join(f"{line}\n" for line in lines))
