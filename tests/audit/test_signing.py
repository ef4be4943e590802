"""Signatures of models and fingerprints: the format by hand, what was altered, and refusals."""

import base64
import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from cna_lens import InputError, audit
from cna_lens.audit.signing.bundles import Manifest
from cna_lens.errors import FingerprintError

# `cryptography` is of the extra `audit`, which the environments of the core do not have; so it is
# imported where it is used.
FILES = {"config.json": b"{}", "weights/a.bin": b"abc", "weights.bin": b"de", ".gitignore": b"x"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Pairs of keys by their names, as private.pem and public.pem in folders."""
    place = tmp_path_factory.mktemp("keys")
    for name, kind in (("own", "p256"), ("other", "p256"), ("edwards", "ed25519")):
        audit.new_key(place / name / "private.pem", place / name / "public.pem", kind)
    return place


@pytest.fixture
def model(tmp_path, keys):
    """A signed folder."""
    folder = tmp_path / "model"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    assert audit.sign_model(folder, keys / "own/private.pem") == folder / "model.sig"
    return folder


def bundle_of(folder):
    return json.loads((folder / "model.sig").read_text())


def payload_of(bundle):
    return base64.b64decode(bundle["dsseEnvelope"]["payload"])


def test_a_bundle_is_the_format_by_hand(model, keys):
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    bundle = bundle_of(model)
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    pem = (keys / "own/public.pem").read_bytes()
    material = bundle["verificationMaterial"]
    assert material == {"publicKey": {"hint": hashlib.sha256(pem).hexdigest()}, "tlogEntries": []}
    assert bundle["dsseEnvelope"]["payloadType"] == "application/vnd.in-toto+json"
    payload = payload_of(bundle)
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    # A path's parts are compared, so that "weights/a.bin" comes before "weights.bin".
    names = ["config.json", "weights/a.bin", "weights.bin"]
    digests = [hashlib.sha256(FILES[name]) for name in names]
    assert statement["predicate"]["resources"] == [
        {"name": name, "algorithm": "sha256", "digest": digest.hexdigest()}
        for name, digest in zip(names, digests, strict=True)
    ]
    root = hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()
    assert statement["subject"] == [{"name": "model", "digest": {"sha256": root}}]
    said = statement["predicate"]["serialization"]
    assert (said["method"], said["hash_type"], said["allow_symlinks"]) == ("files", "sha256", False)
    assert set(said["ignore_paths"]) >= {"model.sig", ".git", ".gitignore"}
    (signature,) = bundle["dsseEnvelope"]["signatures"]
    signed = (
        b"DSSEv1 28 application/vnd.in-toto+json " + str(len(payload)).encode() + b" " + payload
    )
    key = serialization.load_pem_public_key(pem)
    key.verify(base64.b64decode(signature["sig"]), signed, ec.ECDSA(hashes.SHA256()))


def test_a_signed_model_is_verified(model, keys):
    found = audit.model_signature(model, keys / "own/public.pem")
    assert (found.n_files, found.verified_with) == (3, str(keys / "own/public.pem"))
    assert "and 3 files with it" in str(found)
    moved = model.rename(model.with_name("elsewhere"))
    assert audit.model_signature(moved, keys / "own/public.pem").n_files == 3
    # What git keeps is not part of the model.
    (moved / ".gitignore").write_text("y")
    (moved / ".git").mkdir()
    (moved / ".git/config").write_text("y")
    assert audit.model_signature(moved, keys / "own/public.pem").n_files == 3


def test_without_a_key_nothing_is_verified(model):
    (model / "weights.bin").write_bytes(b"other")
    found = audit.model_signature(model)
    assert (found.verified_with, found.n_files) == (None, None)
    assert "was not verified" in str(found)
    (model / "model.sig").unlink()
    assert audit.model_signature(model) is None


def changed(folder):
    (folder / "weights/a.bin").write_bytes(b"abd")


def added(folder):
    (folder / "modeling.py").write_text("")


def missing(folder):
    (folder / "weights.bin").unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed, "changed: weights/a.bin"),
        (added, "added: modeling.py"),
        (missing, "missing: weights.bin"),
    ],
)
def test_a_changed_file_is_named(model, keys, change, said):
    change(model)
    with pytest.raises(FingerprintError, match=f"{said}; do not use them"):
        audit.model_signature(model, keys / "own/public.pem")


def rewritten(folder, edit):
    bundle = bundle_of(folder)
    edit(bundle)
    (folder / "model.sig").write_text(json.dumps(bundle))


def other_payload(bundle):
    payload = payload_of(bundle).replace(b'"config.json"', b'"confih.json"')
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()


def other_signature(bundle):
    (signature,) = bundle["dsseEnvelope"]["signatures"]
    raw = bytearray(base64.b64decode(signature["sig"]))
    raw[-1] ^= 1
    signature["sig"] = base64.b64encode(raw).decode()


def no_hint(bundle):
    bundle["verificationMaterial"]["publicKey"] = {}


def other_hint(bundle):
    bundle["verificationMaterial"]["publicKey"]["hint"] = "00" * 32


def certificate(bundle):
    bundle["verificationMaterial"] = {"certificate": {"rawBytes": ""}}


def other_type(bundle):
    bundle["dsseEnvelope"]["payloadType"] = "text/plain"


def other_media(bundle):
    bundle["mediaType"] = "text/plain"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (other_payload, "was altered"),
        (other_signature, "was altered"),
        (other_hint, "another key"),
        (certificate, "with a certificate"),
        (other_type, "no signature of a model"),
        (other_media, "no signature of a model"),
        (lambda bundle: bundle.pop("dsseEnvelope"), "no signature of a model"),
        (lambda bundle: bundle["dsseEnvelope"].update(signatures=[]), "no signature of a model"),
    ],
)
def test_an_altered_signature_is_refused(model, keys, edit, said):
    rewritten(model, edit)
    with pytest.raises(FingerprintError, match=said):
        audit.model_signature(model, keys / "own/public.pem")


def test_another_key_is_refused_with_and_without_its_hint(model, keys):
    for edit in (lambda bundle: None, no_hint):
        rewritten(model, edit)
        with pytest.raises(FingerprintError, match="another key"):
            audit.model_signature(model, keys / "other/public.pem")
    # Bundles of earlier versions name no key.
    assert audit.model_signature(model, keys / "own/public.pem").n_files == 3


def test_what_is_no_bundle_is_refused(model, keys):
    for text in ("", "[]", "7", "{", "[" * 200_000):
        (model / "model.sig").write_text(text)
        with pytest.raises(FingerprintError, match="no signature of a model"):
            audit.model_signature(model, keys / "own/public.pem")
    (model / "model.sig").unlink()
    with pytest.raises(FingerprintError, match=r"there is no model\.sig"):
        audit.model_signature(model, keys / "own/public.pem")


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"predicateType": "https://model_signing/Digests/v0.1"}, FingerprintError, "Digests/v0.1"),
        ({"method": "shards"}, FingerprintError, "model_signing verify key"),
        ({"hash_type": "blake3"}, FingerprintError, "model_signing verify key"),
        ({"name": "config.jsonn"}, None, None),
        ({"digest": "00" * 32}, ValueError, "is not that of its files"),
    ],
)
def test_statements_that_cannot_be_verified_are_refused(change, error, said):
    statement = Manifest("m", {"a": "11" * 32, "b": "22" * 32}).statement()
    for part in (statement, statement["predicate"]["serialization"]):
        part.update({name: value for name, value in change.items() if name in part})
    resource = statement["predicate"]["resources"][0]
    resource.update({name: value for name, value in change.items() if name in resource})
    if error is None:
        assert list(Manifest.of_statement(statement, "s").digests) == ["config.jsonn", "b"]
        return
    with pytest.raises(error, match=said):
        Manifest.of_statement(statement, "s")


def test_a_file_that_is_named_twice_is_refused():
    statement = Manifest("m", {"a": "11" * 32}).statement()
    statement["predicate"]["resources"] *= 2
    with pytest.raises(ValueError, match="named twice"):
        Manifest.of_statement(statement, "s")


def test_symbolic_links_need_permission(model, keys, tmp_path):
    (tmp_path / "outside").write_text("z")
    (model / "link.bin").symlink_to(tmp_path / "outside")
    with pytest.raises(FingerprintError, match="symbolic link"):
        audit.sign_model(model, keys / "own/private.pem")
    with pytest.raises(FingerprintError, match="symbolic link"):
        audit.model_signature(model, keys / "own/public.pem")
    audit.sign_model(model, keys / "own/private.pem", allow_symlinks=True)
    assert audit.model_signature(model, keys / "own/public.pem").n_files == 4


def test_a_link_to_a_folder_is_neither_signed_nor_verified(model, keys, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "code.py").write_text("")
    audit.sign_model(model, keys / "own/private.pem", allow_symlinks=True)
    link = model / "weights/more"
    link.symlink_to(outside)
    with pytest.raises(FingerprintError, match="more is a link to a folder"):
        audit.model_signature(model, keys / "own/public.pem")
    with pytest.raises(FingerprintError, match="more is a link to a folder"):
        audit.sign_model(model, keys / "own/private.pem", allow_symlinks=True)
    # The folder itself may be reached by a link.
    link.unlink()
    (tmp_path / "here").symlink_to(model)
    assert audit.model_signature(tmp_path / "here", keys / "own/public.pem").n_files == 3


def fifo(path):
    os.mkfifo(path)


def unix_socket(path):
    # The path of a socket has at most about 100 characters.
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(path.name)


def link_to_a_device(path):
    path.symlink_to(os.devnull)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
@pytest.mark.parametrize("make", [fifo, unix_socket, link_to_a_device])
def test_what_is_no_file_is_neither_signed_nor_verified(model, keys, make):
    audit.sign_model(model, keys / "own/private.pem", allow_symlinks=True)
    make(model / "weights/odd")
    with pytest.raises(FingerprintError, match="odd is neither a file nor a folder"):
        audit.model_signature(model, keys / "own/public.pem")
    with pytest.raises(FingerprintError, match="odd is neither a file nor a folder"):
        audit.sign_model(model, keys / "own/private.pem", allow_symlinks=True)


def test_what_cannot_be_read_is_named(model, keys, monkeypatch):
    (model / "link.bin").symlink_to("nowhere")
    with pytest.raises(FingerprintError, match=r"link\.bin cannot be read: No such file"):
        audit.sign_model(model, keys / "own/private.pem", allow_symlinks=True)
    (model / "link.bin").unlink()

    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    # A folder that cannot be listed is not an empty one.
    monkeypatch.setattr("pathlib.Path.iterdir", refused)
    with pytest.raises(FingerprintError, match="model cannot be read: Permission denied"):
        audit.model_signature(model, keys / "own/public.pem")


def test_a_signature_that_cannot_be_written_is_an_error_with_a_fix(model, keys):
    (model / "model.sig").unlink()
    (model / "model.sig").mkdir()
    with pytest.raises(InputError, match=r"model\.sig cannot be written"):
        audit.sign_model(model, keys / "own/private.pem")


def test_one_path_for_both_keys_is_refused_and_loses_none(tmp_path):
    (tmp_path / "here").mkdir()
    for public in ("key.pem", "here/../key.pem"):
        with pytest.raises(InputError, match="give two paths"):
            audit.new_key(tmp_path / "key.pem", tmp_path / public)
    assert [each.name for each in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize("linked", ["private.pem", "public.pem"])
def test_no_key_is_written_through_a_link(tmp_path, linked):
    (tmp_path / linked).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=rf"{linked} exists; a key is never replaced"):
        audit.new_key(tmp_path / "private.pem", tmp_path / "public.pem")
    assert [each.name for each in tmp_path.iterdir()] == [linked]


def test_a_private_key_is_never_readable_by_others(tmp_path, monkeypatch):
    modes = []
    before = os.open

    def seen(path, flags, mode=0o777, **options):
        modes.append((Path(path).name, mode))
        return before(path, flags, mode, **options)

    monkeypatch.setattr("os.open", seen)
    audit.new_key(tmp_path / "private.pem", tmp_path / "public.pem")
    assert modes == [("private.pem", 0o600), ("public.pem", 0o666)]


def test_a_key_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        audit.new_key(tmp_path / "private.pem", tmp_path / "file/public.pem")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_models_are_not_signed_with_other_keys_or_from_nothing(model, keys, tmp_path):
    with pytest.raises(InputError, match="elliptic curve"):
        audit.sign_model(model, keys / "edwards/private.pem")
    with pytest.raises(InputError, match="elliptic curve"):
        audit.model_signature(model, keys / "edwards/public.pem")
    with pytest.raises(InputError, match="is no folder"):
        audit.sign_model(model / "config.json", keys / "own/private.pem")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no files"):
        audit.sign_model(tmp_path / "empty", keys / "own/private.pem")
    write_key(tmp_path, "SECP256K1")
    with pytest.raises(InputError, match="P-256, P-384 and P-521"):
        audit.check_private_key(tmp_path / "private.pem")


@pytest.mark.usefixtures("without_type_checks")
def test_there_are_no_keys_of_another_kind(tmp_path):
    with pytest.raises(InputError, match="expected one of ed25519, p256"):
        audit.new_key(tmp_path / "a", tmp_path / "b", "rsa")


def write_key(folder, curve):
    """Write a pair of keys on a curve, and return the public one."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(getattr(ec, curve)())
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "private.pem").write_bytes(secret)
    shown = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "public.pem").write_bytes(shown)
    return key.public_key()


@pytest.mark.parametrize(("curve", "size"), [("SECP384R1", "SHA384"), ("SECP521R1", "SHA512")])
def test_longer_curves_sign_with_longer_hashes(model, tmp_path, curve, size):
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = write_key(tmp_path, curve)
    audit.sign_model(model, tmp_path / "private.pem")
    assert audit.model_signature(model, tmp_path / "public.pem").n_files == 3
    (signature,) = bundle_of(model)["dsseEnvelope"]["signatures"]
    payload = payload_of(bundle_of(model))
    signed = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload)
    hashed = ec.ECDSA(getattr(hashes, size)())
    key.verify(base64.b64decode(signature["sig"]), signed, hashed)


def test_a_fingerprint_is_signed_in_either_format(fingerprint, keys, tmp_path):
    path = tmp_path / "model.json"
    for name, other in (("own", "edwards"), ("edwards", "own")):
        audit.save_signed(fingerprint, path, keys / name / "private.pem")
        loaded = audit.load_signed(path, keys / name / "public.pem")
        assert loaded.content() == fingerprint.content()
        with pytest.raises(FingerprintError):
            audit.load_signed(path, keys / other / "public.pem")
        altered = bytearray(path.read_bytes())
        altered[len(altered) // 2] ^= 1
        path.write_bytes(altered)
        with pytest.raises(FingerprintError, match="altered"):
            audit.load_signed(path, keys / name / "public.pem")
    shutil.copy(path, tmp_path / "unsigned.json")
    with pytest.raises(FingerprintError, match="is not signed"):
        audit.load_signed(tmp_path / "unsigned.json", keys / "own/public.pem")


def test_signatures_do_not_pass_for_each_other(fingerprint, model, keys, tmp_path):
    # The signature of a model with the same key is none of a fingerprint.
    path = tmp_path / "model.json"
    fingerprint.save(path)
    shutil.copy(model / "model.sig", tmp_path / "model.json.sig")
    with pytest.raises(FingerprintError, match="altered"):
        audit.load_signed(path, keys / "own/public.pem")
