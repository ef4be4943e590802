"""Keys as PEM files: Ed25519, and the elliptic curves of OpenSSF's model signing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from cna_lens.errors import FingerprintError, InputError

INSTALL: Final = "pip install 'cna-lens[audit]'"

KeyKind = Literal["ed25519", "p256"]

_CURVES: Final = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}


def new_key(private: str | Path, public: str | Path, kind: KeyKind = "ed25519") -> None:
    """Make a pair of keys as PEM files; only its owner can read the private one.

    Args:
        private: the file for the private key; it must not exist.
        public: the file for the public key; it must not exist.
        kind: "ed25519", or "p256" for signatures in OpenSSF's model-signing format.

    Raises:
        InputError: one of the files exists already or cannot be written, both are one file, or the
            kind is unknown.
        FingerprintError: the package `cryptography` is missing.
    """
    ed25519, ec, serialization = packages()
    makers: dict[str, Callable[[], Any]] = {
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    }
    if kind not in makers:
        raise InputError(f"kind is {kind!r}, expected one of {', '.join(makers)}")
    private, public = Path(private), Path(public)
    if private.resolve() == public.resolve():
        raise InputError(f"private and public are both {private}; give two paths")
    if existing := [path for path in (private, public) if path.exists()]:
        raise _existing(existing[0])
    key = makers[kind]()
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _create(private, secret, 0o600)
    try:
        _create(public, public_pem(key.public_key()), 0o666)
    except InputError:
        private.unlink()
        raise


def check_private_key(path: str | Path) -> None:
    """Raise InputError unless a private key can sign; call it before a long run."""
    private_key(path)


def packages() -> tuple[Any, Any, Any]:
    """The modules `ed25519`, `ec` and `serialization` of `cryptography`."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    except ImportError as error:
        raise FingerprintError(f"signatures need the package cryptography; {INSTALL}") from error
    return ed25519, ec, serialization


def private_key(path: str | Path) -> Any:
    """Load a private key; InputError if it is none of Ed25519 or a known curve."""
    ed25519, ec, serialization = packages()
    load = partial(serialization.load_pem_private_key, password=None)
    of = (ed25519.Ed25519PrivateKey, ec.EllipticCurvePrivateKey)
    return _key(path, "private", load, of)


def public_key(path: str | Path) -> Any:
    """Load a public key; InputError if it is none of Ed25519 or a known curve."""
    ed25519, ec, serialization = packages()
    of = (ed25519.Ed25519PublicKey, ec.EllipticCurvePublicKey)
    return _key(path, "public", serialization.load_pem_public_key, of)


def elliptic(key: Any, path: str | Path) -> Any:
    """The key, if it is on an elliptic curve; InputError otherwise."""
    if is_elliptic(key):
        return key
    raise InputError(
        f"{path} is a key of Ed25519, and models are signed on an elliptic curve; make one with "
        "audit.new_key(private, public, 'p256')"
    )


def is_elliptic(key: Any) -> bool:
    """Whether a key is on an elliptic curve, and not of Ed25519."""
    return hasattr(key, "curve")


def hashed_with(key: Any) -> Any:
    """The signature algorithm of a key's curve."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(getattr(hashes, _CURVES[key.curve.name])())


def public_pem(key: Any) -> bytes:
    """A public key as PEM."""
    _, _, serialization = packages()
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def hint(key: Any) -> str:
    """The SHA-256 of a public key's PEM, by which a bundle names its key."""
    return hashlib.sha256(public_pem(key)).hexdigest()


def _create(path: Path, content: bytes, mode: int) -> None:
    """Write a new file with a mode, less the umask; what is there, also a link, is kept."""
    is_new = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb", opener=partial(os.open, mode=mode)) as file:
            is_new = True
            file.write(content)
    except OSError as error:
        if is_new:
            path.unlink()
        if isinstance(error, FileExistsError) and path.parent.is_dir():
            raise _existing(path) from error
        raise InputError(
            f"the key {path} cannot be written: {error.strerror}; give another path"
        ) from error


def _existing(path: Path) -> InputError:
    return InputError(f"{path} exists; a key is never replaced, give another path")


def _key(path: str | Path, kind: str, load: Callable[[bytes], Any], of: tuple[type, ...]) -> Any:
    try:
        key = load(Path(path).read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"the {kind} key {path} cannot be read: {error}") from error
    if not isinstance(key, of) or (is_elliptic(key) and key.curve.name not in _CURVES):
        raise InputError(
            f"{path} is not a {kind} key of Ed25519 or of the curves P-256, P-384 and P-521; make "
            "one with audit.new_key"
        )
    return key
