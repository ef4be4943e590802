"""Signatures in the format of OpenSSF's model signing 1.0: a Sigstore bundle for a key.

The files of a model and their digests are an in-toto statement, which a DSSE envelope signs
(https://github.com/secure-systems-lab/dsse, protocol 1.0.0). `model_signing verify key`, of the
package model-signing, verifies what `signed` gives.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, cast

from cna_lens.audit.signing.keys import hashed_with, hint
from cna_lens.errors import FingerprintError

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
HASHES: Final = ("sha256", "blake2b")


@dataclass(frozen=True)
class Manifest:
    """The files of a model, each with its digest.

    Attributes:
        name: the name of the model's folder or file; it is only informative.
        digests: the digest of each file in hexadecimal, by its path from the folder; "." for a
            model that is one file.
        hash_type: how the files are hashed, "sha256" or "blake2b".
        ignored: the paths that are left out, with all that is in them.
        allow_symlinks: whether symbolic links are followed; otherwise they are refused.
    """

    name: str
    digests: Mapping[str, str]
    hash_type: str = "sha256"
    ignored: tuple[str, ...] = ()
    allow_symlinks: bool = False

    def statement(self) -> dict[str, Any]:
        """The manifest as an in-toto statement, its files in order."""
        paths = sorted(self.digests, key=PurePosixPath)
        return {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": self.name, "digest": {"sha256": _root(self.digests, paths)}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": self.hash_type,
                    "allow_symlinks": self.allow_symlinks,
                    "ignore_paths": list(self.ignored),
                },
                "resources": [
                    {"name": path, "algorithm": self.hash_type, "digest": self.digests[path]}
                    for path in paths
                ],
            },
        }

    @classmethod
    def of_statement(cls, statement: Mapping[str, Any], name: str) -> Manifest:
        """Read a statement.

        Raises:
            FingerprintError: it is not one of version 1.0 for whole files, or contradicts itself.
        """
        found = (statement.get("_type"), statement.get("predicateType"))
        if found != (STATEMENT_TYPE, PREDICATE_TYPE):
            raise FingerprintError(
                f"{name} signs a {found[1]!r}, expected {PREDICATE_TYPE!r}; sign the model again"
            )
        (subject,) = statement["subject"]
        serialization = statement["predicate"]["serialization"]
        resources = statement["predicate"]["resources"]
        kind = (serialization["method"], serialization.get("hash_type"))
        if kind[0] != "files" or kind[1] not in HASHES:
            raise FingerprintError(
                f"{name} signs {kind[0]} by {kind[1]}, and only whole files by "
                f"{' or '.join(HASHES)} can be verified here; use `model_signing verify key`"
            )
        digests = {str(each["name"]): str(each["digest"]) for each in resources}
        if len(digests) < len(resources) or any(e["algorithm"] != kind[1] for e in resources):
            raise ValueError("a file is named twice, or is hashed in another way than the others")
        if _root(digests, list(digests)) != subject["digest"]["sha256"]:
            raise ValueError("the digest of the model is not that of its files")
        return cls(
            str(subject["name"]),
            digests,
            kind[1],
            tuple(map(str, serialization.get("ignore_paths", ()))),
            bool(serialization["allow_symlinks"]),
        )


def signed(manifest: Manifest, key: Any) -> str:
    """The text of a bundle that signs a manifest with a private key on an elliptic curve."""
    payload = json.dumps(manifest.statement(), indent=2).encode()
    signature = key.sign(_encoded(payload), hashed_with(key))
    bundle = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {
            "publicKey": {"hint": hint(key.public_key())},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle) + "\n"


def verified(text: str | bytes, key: Any, name: str) -> Manifest:
    """The manifest that a bundle signs, after its signature has been verified.

    Args:
        text: the bundle.
        key: the public key, on an elliptic curve.
        name: the name of the bundle's file, for error messages.

    Raises:
        FingerprintError: the text is no such bundle, it was signed with another key, or it was
            altered.
    """
    from cryptography.exceptions import InvalidSignature

    try:
        bundle = json.loads(text)
        if bundle["mediaType"] != MEDIA_TYPE:
            raise ValueError(f"its media type is {bundle['mediaType']!r}")
        material, envelope = bundle["verificationMaterial"], bundle["dsseEnvelope"]
        if "publicKey" not in material:
            raise FingerprintError(
                f"{name} was signed with a certificate and not with a key; verify it with "
                "`model_signing verify certificate` or `model_signing verify sigstore`"
            )
        payload = base64.b64decode(envelope["payload"], validate=True)
        (signature,) = envelope["signatures"]
        raw = base64.b64decode(signature["sig"], validate=True)
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise ValueError(f"its payload is {envelope['payloadType']!r}")
        signed_by = material["publicKey"].get("hint")
        if signed_by not in (None, "", hint(key)):
            raise FingerprintError(
                f"{name} was signed with another key than the one that was given; do not use what "
                "it signs"
            )
        key.verify(raw, _encoded(payload), hashed_with(key))
        return Manifest.of_statement(cast("dict[str, Any]", json.loads(payload)), name)
    except FingerprintError:
        raise
    except InvalidSignature as error:
        raise FingerprintError(
            f"{name} was altered, or was signed with another key than the one that was given; do "
            "not use what it signs"
        ) from error
    except (
        *(AttributeError, LookupError, TypeError, ValueError, binascii.Error),
        # JSON that is nested thousands of levels deep.
        RecursionError,
    ) as error:
        raise FingerprintError(f"{name} is no signature of a model: {error!r}") from error


def _encoded(payload: bytes) -> bytes:
    """What DSSE signs: the payload with its type and both lengths before it."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _root(digests: Mapping[str, str], paths: list[str]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(digests[path]) for path in paths)).hexdigest()
