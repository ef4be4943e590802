"""Options that several commands share, and the prompts and models that their values name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal
from urllib.parse import parse_qsl

import typer

from cna_lens.errors import InputError
from cna_lens.models.prompts.chats import ChatSettings
from cna_lens.models.prompts.files import Prompts, read_prompts

if TYPE_CHECKING:
    from cna_lens.models.hooked_model import HookedModel
    from cna_lens.models.prompts.encoding import Chat

SOURCE_HELP: Final = (
    "a .txt file (one prompt per line), a .jsonl or .csv file, or the name or folder of a data "
    "set; append ?column=C to select a column, and &config=D or &split=S likewise"
)

Model = Annotated[
    str,
    typer.Option(
        help="'demo', 'demo-refusal', a name on the Hugging Face Hub, a local folder, or a .gguf "
        "file."
    ),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, …; by default the GPU if there is one.")
]
CircuitFile = Annotated[Path, typer.Option(help="A circuit file, written by `find`.")]
Multiplier = Annotated[
    float,
    typer.Option(
        help="Multiply the circuit's activations by this: 0 ablates, 1 changes nothing, above 1 "
        "amplifies."
    ),
]
MaxNewTokens = Annotated[int, typer.Option(help="Maximum number of tokens per answer.", min=1)]
AllowOtherModel = Annotated[
    bool, typer.Option(help="Accept a circuit that was found on a model of another name.")
]
KeepText = Annotated[
    bool,
    typer.Option("--keep-text", help="Also write the texts of the answers, to separate files."),
]
System = Annotated[str | None, typer.Option(help="A system message before each prompt.")]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME=VALUE for the chat template, such as enable_thinking=false; VALUE is JSON or "
        "text. Give it once for each."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def read_source(source: str) -> Prompts:
    """Read prompts from a file or data set, and from the part of it that follows a "?".

    Raises:
        InputError: an unknown setting follows the "?", or as `read_prompts`.
    """
    path, _, query = source.partition("?")
    options = dict(parse_qsl(query))
    if unknown := set(options) - {"column", "config", "split"}:
        raise InputError(
            f"{source} has the unknown setting {min(unknown)!r}, expected column, config or split"
        )
    return read_prompts(path, **options)


def chat_of(system: str | None, template_option: list[str] | None) -> Chat:
    """Give the chat settings that options name.

    >>> chat_of(None, ["enable_thinking=false", "reasoning_effort=low"]).options
    {'enable_thinking': False, 'reasoning_effort': 'low'}

    Raises:
        InputError: an option has no value.
    """
    if system is None and not template_option:
        return "auto"
    options: dict[str, object] = {}
    for given in template_option or ():
        name, equals, value = given.partition("=")
        if not name or not equals:
            raise InputError(f"--template-option is {given!r}, expected NAME=VALUE")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    return ChatSettings(system=system, options=options)


def position_of(position: str) -> int | Literal["answer"]:
    """Read the option that names a token.

    Raises:
        InputError: it is neither an index nor "answer".
    """
    if position == "answer":
        return "answer"
    try:
        return int(position)
    except ValueError as error:
        raise InputError(
            f"--position is {position!r}, expected an index, -1 for the last token, or answer"
        ) from error


def load_quietly(model: str, device: str | None) -> HookedModel:
    """Load the model that `--model` names, without the loading bars of Transformers."""
    from cna_lens.models.loading.load import load_model

    quiet_loading()
    return load_model(model, device=device)


def quiet_loading() -> None:
    """Turn off the loading bars and messages of Transformers."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
