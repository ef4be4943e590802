"""What a command was asked, written beside its results."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.inside.weights import weights_hash
from cna_lens.models.prompts.encoding import Prompt, encode
from cna_lens.models.trial.trial import tried, what_is_slower
from cna_lens.report.runs import Run, Setting

Option = Setting | Path


def command_line(command: str, options: Mapping[str, Option]) -> str:
    """A command as it would be typed again, every setting named.

    >>> command_line("demo", {"model": "my model", "keep_text": True, "device": None})
    "cna-lens demo --model 'my model' --keep-text"
    """
    words = ["cna-lens", command]
    for name, value in options.items():
        if value is not None and value is not False:
            words.append(f"--{name.replace('_', '-')}")
            if value is not True:
                words.append(str(value))
    return shlex.join(words)


def save_run(
    path: Path,
    command: str,
    model: HookedModel,
    prompts: Mapping[str, Sequence[Prompt]],
    settings: Mapping[str, Setting],
    started: float,
) -> None:
    """Write the command, the model's hash and the prompts' hashes.

    Args:
        path: the file.
        command: from `command_line`.
        model: what it ran on.
        prompts: each kind of them.
        settings: that the results depend on.
        started: when, by `time.perf_counter`.
    """
    Run(
        command=command,
        model=model_name(model),
        weights_sha256=weights_hash(model),
        prompts={kind: encode(model, texts).record for kind, texts in prompts.items()},
        settings=settings,
        seconds=time.perf_counter() - started,
        date=datetime.now(UTC).date().isoformat(),
        slower=what_is_slower(tried(model)),
    ).save(path)
