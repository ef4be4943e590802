"""Why a model could not be loaded, and what to do about it."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants, errors
from safetensors import SafetensorError, safe_open

from cna_lens.errors import ModelError

# Of httpx or httpx2, whichever the Hub's client was built on.
HTTPError: type[Exception] = errors.HTTPError  # pyright: ignore[reportPrivateImportUsage]

LOAD_ERRORS = (OSError, ValueError, SafetensorError, HTTPError)
"""What Transformers, the Hub's client and safetensors raise where a model cannot be had."""

EXPECTED = (
    "Expected 'demo', a Hub name that this machine can reach or has in its cache, a folder with "
    "config.json, weights and tokenizer, or a .gguf file"
)


def cannot_load(source: str | Path, error: Exception) -> ModelError:
    """What to raise in place of an error: the first reason in its chain that can be mended.

    Args:
        source: what should have been loaded: a name on the Hub, or a path.
        error: what was raised.
    """
    mends = (mend for each in _chain(error) if (mend := _mend(source, each)) is not None)
    mend = next(mends, None) or _incomplete(Path(source))
    return ModelError(
        f"{source} could not be loaded: {error}. {EXPECTED}"
        if mend is None
        else f"{source} could not be loaded: {mend}"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _mend(source: str | Path, error: BaseException) -> str | None:
    if isinstance(error, errors.GatedRepoError):
        return (
            f"its authors ask for consent. Give it at {constants.ENDPOINT}/{source}, then log in "
            "with `hf auth login`, or set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"there is no such folder here, and {constants.ENDPOINT} has no model of this name, or "
            "hides it. Check the name; for a private model log in with `hf auth login`"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            "no space is left on the disk. Free some, or keep downloads elsewhere: set HF_HOME "
            f"(now {constants.HF_HOME}); .gguf files are unpacked under XDG_CACHE_HOME"
        )
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        why = (
            "HF_HUB_OFFLINE forbids to ask for it: unset it"
            if constants.is_offline_mode()
            else f"{constants.ENDPOINT} cannot be reached: check the network"
        )
        return (
            f"it is not whole in the cache ({constants.HF_HUB_CACHE}), and {why}. Or fetch it on "
            f"another machine with `hf download {source} --local-dir FOLDER`, and name the folder"
        )
    if isinstance(error, HTTPError) and not isinstance(error, errors.HfHubHTTPError):
        return (
            f"the connection broke off ({type(error).__name__}). What has been fetched is kept: "
            "call again to go on"
        )
    return None


def _incomplete(folder: Path) -> str | None:
    """Which weights a folder lacks, or has only a part of; None where all is there."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = set(json.loads(index.read_text())["weight_map"].values())
        if missing := sorted(name for name in named if not (folder / name).is_file()):
            return (
                f"{', '.join(missing)}, which {index.name} names, is not in the folder; "
                "copy or download it again"
            )
    if broken := [path.name for path in sorted(folder.glob("*.safetensors")) if not _opens(path)]:
        return (
            f"{', '.join(broken)} cannot be read, as after a download that was cut short; delete "
            "it, and copy or download it again"
        )
    return None


def _opens(weights: Path) -> bool:
    try:
        with safe_open(weights, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False
