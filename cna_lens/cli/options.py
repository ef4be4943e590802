"""Options that several commands share, and the prompts, models and files that they name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal
from urllib.parse import parse_qsl

import typer

from cna_lens.errors import InputError
from cna_lens.models.prompts.chats import ChatSettings
from cna_lens.models.prompts.files import STANDARD_INPUT, Prompts, read_prompts

if TYPE_CHECKING:
    from cna_lens.discovery.rankings.protocol import Ranking
    from cna_lens.models.hooked_model import HookedModel
    from cna_lens.models.prompts.encoding import Chat as ChatTemplate
    from cna_lens.models.running.batching import BatchSize as PromptsAtOnce

SOURCE_HELP: Final = (
    "a .txt file (one prompt per line); a .jsonl, .json, .csv, .tsv or .parquet file; '-' for "
    "standard input, one prompt per line; or the name or folder of a data set. Append ?column=C to "
    "select a column, and &separator=X, &config=D or &split=S likewise"
)
RANKING_HELP: Final = "A ranking's name, or file.py:Class for your own"

Model = Annotated[
    str,
    typer.Option(
        help="'demo', 'demo-refusal', a name on the Hugging Face Hub, a local folder, or a .gguf "
        "file."
    ),
]
Precision = Literal["float32", "bfloat16", "float16"]
Dtype = Annotated[Precision, typer.Option("--dtype", help="Precision of weights and activations.")]
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
SteeredPositions = Annotated[
    Literal["all", "prompt", "last_prompt", "from_last_prompt", "generated"],
    typer.Option("--positions", help="The tokens to steer."),
]
Temperature = Annotated[float, typer.Option(help="0 takes the most likely token, above 0 samples.")]
TopP = Annotated[
    float,
    typer.Option(help="Sample from the fewest tokens that have this probability together."),
]
Seed = Annotated[int, typer.Option(help="Seed of the samples.")]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Prompts at once; by default as many as fit into the memory."),
]
Chat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--no-chat",
        help="Put prompts into the chat template, or do not; by default where there is one.",
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
    """Read prompts from a file, standard input or a data set; what follows a "?" selects a part.

    Raises:
        InputError: an unknown setting follows the "?", or as `read_prompts`.
    """
    path, _, query = source.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := set(options) - {"column", "separator", "config", "split"}:
        raise InputError(
            f"{source} has the unknown setting {min(unknown)!r}, expected column, separator, "
            "config or split"
        )
    if empty := [name for name, value in options.items() if not value]:
        raise InputError(f"{source} has {empty[0]!r} without a value; write {empty[0]}=...")
    return read_prompts(path, **options)


def read_both(positive: str, negative: str) -> tuple[Prompts, Prompts]:
    """Read the prompts of both sets.

    Raises:
        InputError: both come from standard input, or as `read_source`.
    """
    if positive == negative == STANDARD_INPUT:
        raise InputError("both sets come from standard input ('-'); give a file for one of them")
    return read_source(positive), read_source(negative)


def chat_of(
    chat: bool | None, system: str | None, template_option: list[str] | None
) -> ChatTemplate:
    """Give the chat settings that options name.

    >>> chat_of(None, None, ["enable_thinking=false", "reasoning_effort=low"]).options
    {'enable_thinking': False, 'reasoning_effort': 'low'}

    Raises:
        InputError: an option has no value, or there is to be no template for it.
    """
    if system is None and not template_option:
        return "auto" if chat is None else chat
    if chat is False:
        raise InputError(
            "--no-chat leaves out the chat template, which --system and --template-option are for; "
            "leave out one of them"
        )
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


def prompts_at_once(given: int | None) -> PromptsAtOnce:
    """The size of a batch; where not given, what fits into the memory."""
    return "auto" if given is None else given


def layers_of(given: str | None) -> list[int] | None:
    """Read layers and ranges of them, both ends included.

    >>> layers_of("0,3-5")
    [0, 3, 4, 5]

    Raises:
        InputError: a part is neither a number nor a range.
    """
    if given is None:
        return None
    layers: list[int] = []
    for part in given.split(","):
        first, dash, last = part.strip().partition("-")
        if (
            not first.isdecimal()
            or (dash and not last.isdecimal())
            or int(last or first) < int(first)
        ):
            raise InputError(
                f"--layers is {given!r}, expected numbers and ranges, such as 0,3-5 for the layers "
                "0, 3, 4 and 5"
            )
        layers += range(int(first), int(last or first) + 1)
    return layers


def ranking_of(name: str) -> Ranking:
    """The ranking of a name, or that of a class in a file.

    Raises:
        InputError: there is no such ranking, file or class, or the class needs settings.
    """
    import runpy
    import sys

    from cna_lens.discovery.rankings.scoring import as_ranking

    path, _, attribute = name.rpartition(":")
    if not path:
        return as_ranking(name)
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist; give a ranking's name or file.py:Class")
    # As when Python runs the file: modules beside it can be imported.
    sys.path.insert(0, str(Path(path).resolve().parent))
    there = runpy.run_path(path)
    if attribute not in there:
        raise InputError(f"{path} has no {attribute!r}; name the class of your ranking")
    own = there[attribute]
    try:
        return as_ranking(own() if isinstance(own, type) else own)
    except TypeError as error:
        raise InputError(
            f"{attribute} cannot be made without settings ({error}); give each field a default, or "
            "name a ranking that the file has made"
        ) from error


def check_file(path: Path | None, option: str = "--out", *, new: bool = False) -> None:
    """Raise InputError unless a file can be written.

    Args:
        path: the file; None for no file.
        option: the option that gives it.
        new: whether a file that exists is to be kept.
    """
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{option} is {path}, which is a folder; give the name of a file")
    if new and path.exists():
        raise InputError(f"{option} is {path}, which exists; give another name, or delete it")
    check_folder(path.parent, option)


def check_folder(path: Path, option: str = "--out") -> None:
    """Raise InputError unless files can be written into a folder, which need not exist."""
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not there.is_dir():
        raise InputError(f"{option} is in {there}, which is a file; give a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{option} is in {there}, where you may not write; give another folder")


def load_quietly(model: str, device: str | None, dtype: Precision = "float32") -> HookedModel:
    """Load the model that `--model` names, without the loading bars of Transformers."""
    import torch

    from cna_lens.models.loading.load import load_model

    quiet_loading()
    return load_model(model, device=device, dtype=getattr(torch, dtype))


def quiet_loading() -> None:
    """Turn off the loading bars and messages of Transformers."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
