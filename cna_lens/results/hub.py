"""Text files in a repository of the Hugging Face Hub, read and written at named commits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, errors, hf_hub_download
from huggingface_hub.utils import validate_repo_id

from cna_lens.errors import HubError, InputError
from cna_lens.results.provenance import library_versions

# From httpx or httpx2, whichever the Hub's client uses.
HTTPError: type[Exception] = errors.HTTPError  # pyright: ignore[reportPrivateImportUsage]
HUB_ERRORS = (OSError, ValueError, HTTPError)

VERSION = dict(library_versions())["cna-lens"]
"""What the Hub is told of who asks."""


def create(repo_id: str, *, private: bool | None, token: str | None) -> None:
    """Make a repository unless it exists.

    Raises:
        InputError: the name is not one of a repository.
        HubError: the Hub refuses, or cannot be reached.
    """
    _check_name(repo_id)
    try:
        _api(token).create_repo(repo_id, private=private, exist_ok=True)
    except HUB_ERRORS as error:
        raise _failed(f"{repo_id} could not be created", error) from error


def commit(repo_id: str, files: Mapping[str, str], message: str, *, token: str | None) -> str:
    """Write files into a repository in one commit.

    Returns:
        The hash of the commit, or of the latest one if nothing has changed.

    Raises:
        HubError: the Hub refuses, or cannot be reached.
    """
    added = [CommitOperationAdd(name, text.encode("utf-8")) for name, text in files.items()]
    try:
        return _api(token).create_commit(repo_id, added, commit_message=message).oid
    except HUB_ERRORS as error:
        raise _failed(f"{repo_id} could not be written", error) from error


def read(repo_id: str, name: str, *, revision: str | None, token: str | None) -> tuple[bytes, str]:
    """Read a file of a repository, from the cache where it is there.

    Returns:
        Its content, and the hash of the commit that it was read at.

    Raises:
        InputError: the name is not one of a repository.
        HubError: there is no such repository, revision or file, or the Hub cannot be reached.
    """
    _check_name(repo_id)
    at = "" if revision is None else f" at {revision}"
    try:
        path = Path(
            hf_hub_download(
                repo_id,
                name,
                revision=revision,
                token=token,
                library_name="cna-lens",
                library_version=VERSION,
            )
        )
        # The cache has a folder for each commit, named by its hash.
        return path.read_bytes(), path.parent.name
    except HUB_ERRORS as error:
        raise _failed(f"{name} of {repo_id}{at} could not be read", error) from error


def _api(token: str | None) -> HfApi:
    return HfApi(token=token, library_name="cna-lens", library_version=VERSION)


def _check_name(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except errors.HFValidationError as error:
        raise InputError(f"repo_id is {repo_id!r}, expected 'owner/name': {error}") from error
    if "/" not in repo_id:
        raise InputError(f"repo_id is {repo_id!r}, expected 'owner/name'")


def _failed(what: str, error: Exception) -> HubError:
    """Make the error to raise: it names the first reason in the chain that has a known fix."""
    # The client raises that a file is not in the cache from the reason why it is not.
    chain = list(_chain(error))
    reasons = (
        reason
        for reason_of in (_reason, _unreachable)
        for each in chain
        if (reason := reason_of(each)) is not None
    )
    return HubError(f"{what}: {next(reasons, None) or error}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str | None:
    hub = constants.ENDPOINT
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids it: unset it"
    if isinstance(error, errors.GatedRepoError):
        return f"its owners ask for consent; give it at {hub}, then log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{hub} has no public repository of this name. Check the name; for a private one log "
            "in with `hf auth login`, or pass a token"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision; give a branch, a tag, or the hash of a commit"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "the repository has no such file, so that it holds no circuit of cna_lens"
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return (
            "the Hub does not allow it. Log in with `hf auth login`, or pass a token that may "
            "write there"
        )
    return None


def _unreachable(error: BaseException) -> str | None:
    is_answer = isinstance(error, errors.HfHubHTTPError)
    if isinstance(error, errors.LocalEntryNotFoundError) or (
        isinstance(error, HTTPError) and not is_answer
    ):
        return (
            f"it is not in the cache, and {constants.ENDPOINT} cannot be reached: check the network"
        )
    return None
