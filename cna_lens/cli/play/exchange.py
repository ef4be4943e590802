"""A prompt of `play` with its two growing answers, and the file that `/save` writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cna_lens.cli.play.settings import Settings
from cna_lens.metrics.answer_texts import NOTICE
from cna_lens.metrics.refusal.rules import is_refusal
from cna_lens.results.files import write_atomically


@dataclass(frozen=True)
class Written:
    """An answer, as far as it is generated.

    Attributes:
        text: the text so far.
        log_odds: log-odds in nats that it begins as a refusal; None before they are computed.
        finished: whether the answer is complete.
    """

    text: str = ""
    log_odds: float | None = None
    finished: bool = False

    @property
    def refused(self) -> bool:
        """Whether the text so far opens with a refusal (`is_refusal`)."""
        return is_refusal(self.text)


@dataclass(frozen=True)
class Exchange:
    """A prompt with both answers.

    Attributes:
        prompt: the typed prompt.
        settings: the steering of the second answer.
        unsteered: the answer without steering.
        steered: the answer with steering.
    """

    prompt: str
    settings: Settings
    unsteered: Written = field(default_factory=Written)
    steered: Written = field(default_factory=Written)


def save_exchanges(path: Path, exchanges: Sequence[Exchange]) -> None:
    """Write exchanges with their texts as JSON lines, after a line with a notice."""
    rows = [{"notice": NOTICE}, *map(asdict, exchanges)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    write_atomically(path, "".join(f"{line}\n" for line in lines))
