"""The commands of `play`, from the line that was typed to what it asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import Literal, cast, get_args

from cna_lens.cli.play.settings import METHODS, SCOPES, Method, Settings
from cna_lens.errors import InputError

Action = Literal["set", "top", "save", "help", "quit"]

HELP = {
    "/multiplier M": "multiply the neurons' activations with M: 0 ablates, 1 changes nothing",
    "/k N": "steer with the circuit's N strongest neurons",
    "/method NAME": f"one of {', '.join(METHODS)}",
    "/scope NAME": f"steer at these tokens: {', '.join(SCOPES)}",
    "/length N": "tokens of an answer at most",
    "/top": "show the neurons",
    "/save PATH": "write this session's answers, with their texts, to a file",
    "/help": "show this",
    "/quit": "end; so does Ctrl-D",
}
"""Each command with what it does."""


@dataclass(frozen=True)
class Command:
    """What a line asks for.

    Attributes:
        action: what to do.
        settings: the settings from now on.
        path: the file of `/save`.
    """

    action: Action
    settings: Settings
    path: str = ""


def read_command(line: str, settings: Settings, circuit_size: int) -> Command:
    """What a line that begins with "/" asks for.

    >>> read_command("/multiplier 0.5", Settings(0.0, k=46), 46).settings.multiplier
    0.5
    >>> read_command("/scoop last", Settings(0.0, k=46), 46)
    Traceback (most recent call last):
    cna_lens.errors.InputError: there is no command /scoop; do you mean /scope? /help shows all

    Args:
        line: what was typed.
        settings: as they are.
        circuit_size: neurons of the circuit.

    Raises:
        InputError: an unknown command, or a value that it cannot take.
    """
    name, _, rest = line.strip().partition(" ")
    value = rest.strip()
    setters = _SETTERS | {"/k": partial(_set_k, circuit_size=circuit_size)}
    if name in setters:
        changed = setters[name](value, settings)
        _check_together(changed)
        return Command("set", changed)
    action = name.removeprefix("/")
    if action not in get_args(Action) or action == "set":
        raise InputError(_unknown(name))
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


def _set_method(value: str, settings: Settings) -> Settings:
    if value not in METHODS:
        raise InputError(f"there is no method {value!r}{_nearest(value, METHODS)}")
    method: Method = next(each for each in METHODS if each == value)
    return replace(settings, method=method)


def _set_scope(value: str, settings: Settings) -> Settings:
    if value not in SCOPES:
        raise InputError(f"there is no scope {value!r}{_nearest(value, SCOPES)}")
    return replace(settings, scope=value)


_SETTERS: dict[str, Callable[[str, Settings], Settings]] = {
    "/multiplier": _set_multiplier,
    "/method": _set_method,
    "/scope": _set_scope,
    "/length": _set_length,
}


def _check_together(settings: Settings) -> None:
    if settings.method == "caa" and not 0 <= settings.multiplier <= 1:
        raise InputError(
            f"caa has the strength 1 - multiplier, from 0 to 1; the multiplier is "
            f"{settings.multiplier:g}: set it to 0 to 1 first"
        )


def _whole(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        return 0


def _unknown(name: str) -> str:
    known = [command.split()[0] for command in HELP]
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    meant = f"; do you mean {near[0]}?" if near else ";"
    return f"there is no command {name}{meant} /help shows all"


def _nearest(value: str, known: Iterable[str]) -> str:
    names = list(known)
    near = get_close_matches(value, names, n=1, cutoff=0.3)
    meant = f"; do you mean {near[0]}?" if near else "."
    return f"{meant} There are {', '.join(names)}"
