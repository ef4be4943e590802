"""Signatures of fingerprints: they show who took one, and that no byte was altered.

A key of Ed25519 signs the bytes of the file. A key on an elliptic curve signs the file as OpenSSF's
model signing does.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cna_lens.audit.fingerprints.fingerprint import FILE, Fingerprint
from cna_lens.audit.signing.bundles import Manifest, signed, verified
from cna_lens.audit.signing.keys import is_elliptic, private_key, public_key
from cna_lens.errors import FingerprintError
from cna_lens.results.files import write_atomically


def signature_path(path: str | Path) -> Path:
    """The path of a file's signature, which is beside the file.

    >>> signature_path("model.json").name
    'model.json.sig'
    """
    path = Path(path)
    return path.with_name(f"{path.name}.sig")


def save_signed(fingerprint: Fingerprint, path: str | Path, private: str | Path) -> None:
    """Write a fingerprint and, beside it, the signature of its bytes.

    With a key on the curve P-256, P-384 or P-521 the signature is in the format of OpenSSF's model
    signing; `model_signing verify key model.json --signature model.json.sig` accepts it.

    Raises:
        InputError: the private key cannot be used.
    """
    key, content = private_key(private), fingerprint.content()
    if is_elliptic(key):
        signature = signed(_manifest(content, Path(path).name), key)
    else:
        signature = key.sign(content).hex() + "\n"
    fingerprint.save(path)
    write_atomically(signature_path(path), signature)


def load_signed(path: str | Path, public: str | Path) -> Fingerprint:
    """Read a fingerprint after its signature has been verified with a public key.

    Raises:
        FingerprintError: there is no signature, it is from another key, or a byte was altered.
        InputError: the public key cannot be used.
    """
    key = public_key(public)
    content, beside = FILE.read(path), signature_path(path)
    try:
        signature = beside.read_text(encoding="ascii")
    except OSError as error:
        raise FingerprintError(
            f"{path} is not signed: there is no {beside.name} beside it; sign it where it was taken"
        ) from error
    except ValueError as error:
        raise _no_signature(beside) from error
    if is_elliptic(key):
        manifest = verified(signature, key, str(beside))
        intact = manifest.digests == _manifest(content, "", manifest.hash_type).digests
    else:
        intact = _signs(key, signature, content, beside)
    if not intact:
        raise FingerprintError(
            f"{path} was altered after it was signed, or was signed with another key than that of "
            f"{public}; do not use it"
        )
    return Fingerprint.parse(content, str(path))


def _manifest(content: bytes, name: str, hash_type: str = "sha256") -> Manifest:
    # So model signing names the only file of a model.
    return Manifest(name, {".": hashlib.new(hash_type, content).hexdigest()}, hash_type)


def _signs(key: Any, signature: str, content: bytes, beside: Path) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(bytes.fromhex(signature.strip()), content)
    except ValueError as error:
        raise _no_signature(beside) from error
    except InvalidSignature:
        return False
    return True


def _no_signature(beside: Path) -> FingerprintError:
    return FingerprintError(f"{beside} is not a signature; sign the fingerprint again")
