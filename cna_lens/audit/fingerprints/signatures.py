"""Ed25519 signatures of fingerprints: they show who took one, and that no byte was altered."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cna_lens.audit.fingerprints.fingerprint import FILE, Fingerprint
from cna_lens.errors import FingerprintError, InputError
from cna_lens.results.files import write_atomically

INSTALL = "pip install 'cna-lens[audit]'"


def signature_path(path: str | Path) -> Path:
    """The path of a file's signature, which is beside the file.

    >>> signature_path("model.json").name
    'model.json.sig'
    """
    path = Path(path)
    return path.with_name(f"{path.name}.sig")


def new_key(private: str | Path, public: str | Path) -> None:
    """Make a pair of keys as PEM files; only its owner can read the private one.

    Raises:
        InputError: one of the files exists already.
        FingerprintError: the package `cryptography` is missing.
    """
    ed25519, serialization = _cryptography()
    private, public = Path(private), Path(public)
    if existing := [path for path in (private, public) if path.exists()]:
        raise InputError(f"{existing[0]} exists; a key is never replaced, give another path")
    key = ed25519.Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    private.parent.mkdir(parents=True, exist_ok=True)
    private.touch(mode=0o600)
    private.write_bytes(secret)
    shown = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    write_atomically(public, shown.decode())


def check_private_key(path: str | Path) -> None:
    """Raise InputError unless a private key can sign; call it before a long run."""
    _private_key(path)


def save_signed(fingerprint: Fingerprint, path: str | Path, private: str | Path) -> None:
    """Write a fingerprint and, beside it, the signature of its bytes.

    Raises:
        InputError: the private key cannot be used.
    """
    key = _private_key(private)
    signature = key.sign(fingerprint.content())
    fingerprint.save(path)
    write_atomically(signature_path(path), signature.hex() + "\n")


def load_signed(path: str | Path, public: str | Path) -> Fingerprint:
    """Read a fingerprint after its signature has been verified with a public key.

    Raises:
        FingerprintError: there is no signature, it is from another key, or a byte was altered.
        InputError: the public key cannot be used.
    """
    key = _public_key(public)
    from cryptography.exceptions import InvalidSignature

    content, beside = FILE.read(path), signature_path(path)
    try:
        signature = bytes.fromhex(beside.read_text(encoding="ascii").strip())
    except OSError as error:
        raise FingerprintError(
            f"{path} is not signed: there is no {beside.name} beside it; sign it where it was taken"
        ) from error
    except ValueError as error:
        raise FingerprintError(
            f"{beside} is not a signature; sign the fingerprint again"
        ) from error
    try:
        key.verify(signature, content)
    except InvalidSignature as error:
        raise FingerprintError(
            f"{path} was altered after it was signed, or was signed with another key than that of "
            f"{public}; do not use it"
        ) from error
    return Fingerprint.parse(content, str(path))


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise FingerprintError(f"signatures need the package cryptography; {INSTALL}") from error
    return ed25519, serialization


def _private_key(path: str | Path) -> Any:
    ed25519, serialization = _cryptography()
    load = partial(serialization.load_pem_private_key, password=None)
    return _key(path, "private", load, ed25519.Ed25519PrivateKey)


def _public_key(path: str | Path) -> Any:
    ed25519, serialization = _cryptography()
    return _key(path, "public", serialization.load_pem_public_key, ed25519.Ed25519PublicKey)


def _key(path: str | Path, kind: str, load: Callable[[bytes], Any], of: type) -> Any:
    try:
        key = load(Path(path).read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"the {kind} key {path} cannot be read: {error}") from error
    if not isinstance(key, of):
        raise InputError(f"{path} is not a {kind} key of Ed25519; make one with audit.new_key")
    return key
