"""The signature `model.sig` beside the weights of a model: made, and compared with the files."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from cna_lens.audit.signing.bundles import Manifest, signed, verified
from cna_lens.audit.signing.keys import elliptic, private_key, public_key
from cna_lens.errors import FingerprintError, InputError
from cna_lens.results.files import write_atomically

SIGNATURE: Final = "model.sig"

GIT: Final = (".git", ".gitattributes", ".github", ".gitignore")
"""Paths that model signing leaves out."""

N_NAMED: Final = 5


@dataclass(frozen=True)
class ModelSignature:
    """The signature that lies beside the weights of a model.

    Attributes:
        path: the signature's file.
        verified_with: the file of the public key by which signature and files were verified; None
            if they were not verified.
        n_files: the number of files that the signature covers; None as above.
    """

    path: str
    verified_with: str | None = None
    n_files: int | None = None

    def __str__(self) -> str:
        """One line of a report."""
        if self.verified_with is None:
            return f"{self.path} lies beside the weights and was not verified: no key was given"
        files = "1 file" if self.n_files == 1 else f"{self.n_files} files"
        return f"{self.path}, verified with {self.verified_with}, and {files} with it"


def sign_model(folder: str | Path, private: str | Path, *, allow_symlinks: bool = False) -> Path:
    """Sign all files of a model's folder, and write `model.sig` into it.

        audit.sign_model("model", "private.pem")

    The format is that of OpenSSF's model signing: `model_signing verify key model --signature
    model/model.sig --public_key public.pem` accepts it.

    Args:
        folder: the folder; an earlier `model.sig` in it is replaced.
        private: a private key on the curve P-256, P-384 or P-521 (PEM).
        allow_symlinks: follow symbolic links to files, as in the cache of the Hugging Face Hub.

    Returns:
        The path of the signature.

    Raises:
        InputError: the key cannot be used, there is no such folder, or it cannot be written to.
        FingerprintError: the package `cryptography` is missing; or the folder holds what cannot be
            signed: a file that cannot be read, a link to a folder, or what is no file at all.
    """
    folder = Path(folder)
    key = elliptic(private_key(private), private)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give the folder of a model's files")
    ignored = (SIGNATURE, *GIT)
    digests = _digests(folder, "sha256", ignored, allow_symlinks)
    if not digests:
        raise InputError(f"{folder} holds no files to sign")
    manifest = Manifest(folder.resolve().name, digests, "sha256", ignored, allow_symlinks)
    try:
        write_atomically(folder / SIGNATURE, signed(manifest, key))
    except OSError as error:
        raise InputError(
            f"{SIGNATURE} cannot be written into {folder}: {error.strerror}; sign a folder where "
            "you may write"
        ) from error
    return folder / SIGNATURE


def model_signature(folder: str | Path, public: str | Path | None = None) -> ModelSignature | None:
    """Look for `model.sig` in a model's folder, and verify it and the files with a public key.

    Args:
        folder: the folder of the weights.
        public: the public key (PEM); without it nothing is verified.

    Returns:
        The signature; None if there is none and no key was given.

    Raises:
        InputError: the key cannot be used.
        FingerprintError: there is a key and no signature; or the signature is of another key or
            was altered; or a file was changed, added or removed, or cannot be read or signed,
            which is then named.
    """
    folder = Path(folder)
    path = folder / SIGNATURE
    if public is None:
        return ModelSignature(str(path)) if path.is_file() else None
    key = elliptic(public_key(public), public)
    if not path.is_file():
        raise FingerprintError(
            f"{folder} is not signed: there is no {SIGNATURE} in it; sign the model where it was "
            "made, or attest without the key"
        )
    try:
        bundle = path.read_bytes()
    except OSError as error:
        raise FingerprintError(
            f"{path} cannot be read: {error.strerror}; make it readable, or sign the model again"
        ) from error
    manifest = verified(bundle, key, str(path))
    check_files(folder, manifest, str(path), (SIGNATURE, *GIT))
    return ModelSignature(str(path), str(public), len(manifest.digests))


def check_files(place: Path, manifest: Manifest, name: str, ignored: tuple[str, ...] = ()) -> None:
    """Raise FingerprintError, which names the files, unless they are those of the manifest."""
    now = _digests(
        place, manifest.hash_type, (*manifest.ignored, *ignored), manifest.allow_symlinks
    )
    before = manifest.digests
    different = {
        "changed": [path for path in before if path in now and now[path] != before[path]],
        "added": [path for path in now if path not in before],
        "missing": [path for path in before if path not in now],
    }
    said = [f"{what}: {_named(paths)}" for what, paths in different.items() if paths]
    if said:
        raise FingerprintError(
            f"the files of {place} are not as {name} signs them; {'; '.join(said)}; do not use them"
        )


def _named(paths: Iterable[str]) -> str:
    found = sorted(paths)
    more = f" and {len(found) - N_NAMED} more" if len(found) > N_NAMED else ""
    return ", ".join(found[:N_NAMED]) + more


def _digests(
    place: Path, hash_type: str, ignored: tuple[str, ...], allow_symlinks: bool
) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        for name, path in _files(place, ignored, allow_symlinks):
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, hash_type).hexdigest()
    except OSError as error:
        raise FingerprintError(
            f"{error.filename or place} cannot be read: {error.strerror}; a signature covers all "
            "files, so make it readable or remove it"
        ) from error
    return found


def _files(
    place: Path, ignored: tuple[str, ...], allow_symlinks: bool
) -> Iterator[tuple[str, Path]]:
    """All files with their names from the place; FingerprintError for what cannot be hashed."""
    left = [place]
    while left:
        path = left.pop()
        name = PurePosixPath(path.relative_to(place).as_posix())
        if any(name.is_relative_to(each) for each in ignored):
            continue
        if path.is_symlink() and not allow_symlinks:
            raise FingerprintError(
                f"{path} is a symbolic link, which the signature does not allow; sign with "
                "allow_symlinks=True, or copy the files"
            )
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            yield str(name), path
        elif not stat.S_ISDIR(mode):
            raise FingerprintError(
                f"{path} is neither a file nor a folder, so it cannot be signed; remove it"
            )
        elif path.is_symlink() and path != place:
            raise FingerprintError(
                f"{path} is a link to a folder, and a signature covers only links to files; put "
                "a copy of the folder there"
            )
        else:
            left += sorted(path.iterdir(), reverse=True)
