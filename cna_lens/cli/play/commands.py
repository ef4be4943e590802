"""The commands of `play`: each typed line becomes an action and new settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import Literal, cast, get_args

from cna_lens.cli.play.settings import METHODS, SCOPES, Settings
from cna_lens.errors import InputError

Action = Literal["set", "top", "save", "help", "quit"]

HELP = {
    "/multiplier M": "multiply the neurons' activations by M: 0 ablates, 1 changes nothing",
    "/k N": "steer the circuit's N strongest neurons",
    "/method NAME": f"how to steer: {', '.join(METHODS)}",
    "/scope NAME": f"which tokens to steer: {', '.join(SCOPES)}",
    "/length N": "maximum number of tokens per answer",
    "/top": "show the strongest neurons",
    "/save PATH": "write the prompts and answers of this session, with their texts, to a file",
    "/help": "show this list",
    "/quit": "end; so does Ctrl-D",
}
"""The effect of each command."""


@dataclass(frozen=True)
class Command:
    """The meaning of a typed line.

    Attributes:
        action: the action.
        settings: the settings from now on.
        path: the file of `/save`.
    """

    action: Action
    settings: Settings
    path: str = ""


def read_command(line: str, settings: Settings, circuit_size: int) -> Command:
    """Parse a line that begins with "/".

    >>> read_command("/multiplier 0.5", Settings(0.0, k=46), 46).settings.multiplier
    0.5
    >>> read_command("/scoop last", Settings(0.0, k=46), 46)
    Traceback (most recent call last):
    cna_lens.errors.InputError: there is no command /scoop; do you mean /scope? /help shows all

    Args:
        line: the typed line.
        settings: the present settings.
        circuit_size: number of neurons of the circuit.

    Raises:
        InputError: the command is unknown, or does not accept the value.
    """
    name, _, rest = line.strip().partition(" ")
    value = rest.strip()
    setters = _SETTERS | {"/k": partial(_set_k, circuit_size=circuit_size)}
    if name in setters:
        changed = setters[name](value, settings)
        if changed.method == "caa" and not 0 <= changed.multiplier <= 1:
            raise InputError(
                f"caa has the strength 1 - multiplier, from 0 to 1; the multiplier is "
                f"{changed.multiplier:g}: set it to 0 to 1 first"
            )
        return Command("set", changed)
    action = name.removeprefix("/")
    if action not in get_args(Action) or action == "set":
        known = [command.split()[0] for command in HELP]
        raise InputError(f"there is no command {name}{_meant(name, known) or ';'} /help shows all")
    if action == "save":
        if not value:
            raise InputError("/save needs a file: /save answers.jsonl; nothing was saved")
        return Command("save", settings, value)
    if value:
        raise InputError(f"{name} takes no value, and was given {value!r}")
    return Command(cast("Action", action), settings)


def _set_multiplier(value: str, settings: Settings) -> Settings:
    try:
        multiplier = float(value)
    except ValueError:
        multiplier = math.nan
    if not math.isfinite(multiplier):
        raise InputError(f"/multiplier takes a number, such as 0.5, and was given {value!r}")
    return replace(settings, multiplier=multiplier)


def _set_k(value: str, settings: Settings, circuit_size: int) -> Settings:
    k = _whole(value)
    if not 1 <= k <= circuit_size:
        raise InputError(
            f"/k takes 1 to {circuit_size}, the circuit's number of neurons, and was given "
            f"{value!r}; find a larger circuit for more"
        )
    return replace(settings, k=k)


def _set_length(value: str, settings: Settings) -> Settings:
    length = _whole(value)
    if length < 1:
        raise InputError(f"/length takes a number of tokens from 1, and was given {value!r}")
    return replace(settings, length=length)


def _set_named(value: str, settings: Settings, field: str, names: Sequence[str]) -> Settings:
    if value not in names:
        meant = _meant(value, names) or "."
        raise InputError(f"there is no {field} {value!r}{meant} There are {', '.join(names)}")
    return replace(settings, **{field: value})


_SETTERS: dict[str, Callable[[str, Settings], Settings]] = {
    "/multiplier": _set_multiplier,
    "/method": partial(_set_named, field="method", names=METHODS),
    "/scope": partial(_set_named, field="scope", names=tuple(SCOPES)),
    "/length": _set_length,
}


def _whole(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        return 0


def _meant(value: str, known: Sequence[str]) -> str:
    near = get_close_matches(value, known, n=1, cutoff=0.4)
    return f"; do you mean {near[0]}?" if near else ""
