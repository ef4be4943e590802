"""The reasons why a model could not be loaded, and their fixes."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants, errors
from safetensors import SafetensorError, safe_open

from cna_lens.errors import ModelError
from cna_lens.results.hub import HTTPError

LOAD_ERRORS = (OSError, ValueError, SafetensorError, HTTPError)
"""The errors of Transformers, the Hub's client and safetensors for a model that is unavailable."""

EXPECTED = (
    "Expected 'demo', a Hub name that this machine can reach or has in its cache, a folder with "
    "config.json, weights and tokenizer, or a .gguf file"
)


def cannot_load(source: str | Path, error: Exception) -> ModelError:
    """Make the error to raise: it names the first reason in the chain that has a known fix.

    Args:
        source: the name on the Hub, or the path, that could not be loaded.
        error: the error that was raised.
    """
    fixes = (fix for each in _chain(error) if (fix := _fix(source, each)) is not None)
    reason = next(fixes, None) or _incomplete(Path(source)) or f"{error}. {EXPECTED}"
    return ModelError(f"{source} could not be loaded: {reason}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _fix(source: str | Path, error: BaseException) -> str | None:
    if isinstance(error, errors.GatedRepoError):
        return (
            f"its authors ask for consent. Give it at {constants.ENDPOINT}/{source}, then log in "
            "with `hf auth login`, or set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"there is no such folder here, and {constants.ENDPOINT} has no public model of this "
            "name. Check the name; for a private model log in with `hf auth login`"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            "no space is left on the disk. Free some space, or keep downloads elsewhere: set "
            f"HF_HOME (now {constants.HF_HOME}); .gguf files are unpacked under XDG_CACHE_HOME"
        )
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        why = (
            "HF_HUB_OFFLINE forbids a download: unset it"
            if constants.is_offline_mode()
            else f"{constants.ENDPOINT} cannot be reached: check the network"
        )
        return (
            f"it is not complete in the cache ({constants.HF_HUB_CACHE}), and {why}. Or download "
            f"it on another machine with `hf download {source} --local-dir FOLDER`, and pass the "
            "folder"
        )
    if isinstance(error, HTTPError) and not isinstance(error, errors.HfHubHTTPError):
        return (
            f"the connection broke off ({type(error).__name__}). Downloaded parts are kept: call "
            "again to continue"
        )
    return None


def _incomplete(folder: Path) -> str | None:
    """Name the weights that a folder lacks or that are truncated; None where it is complete."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            named: set[str] = set(json.loads(index.read_text())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return (
                f"{index.name} cannot be read, perhaps after an interrupted download; delete it, "
                "and copy or download it again"
            )
        if missing := sorted(name for name in named if not (folder / name).is_file()):
            return (
                f"{', '.join(missing)}, which {index.name} names, is not in the folder; "
                "copy or download it again"
            )
    if broken := [path.name for path in sorted(folder.glob("*.safetensors")) if not _opens(path)]:
        return (
            f"{', '.join(broken)} cannot be read, perhaps after an interrupted download; delete "
            "it, and copy or download it again"
        )
    return None


def _opens(weights: Path) -> bool:
    try:
        with safe_open(weights, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False
