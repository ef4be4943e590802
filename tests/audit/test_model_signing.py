"""OpenSSF's own model_signing accepts our signatures, and ours reads its; `make test-signing`.

It is in an environment of its own, since it pins what others leave open.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from cna_lens import audit
from cna_lens.errors import FingerprintError

pytestmark = pytest.mark.signing

COMMAND = os.environ["MODEL_SIGNING"]


def model_signing(*arguments):
    """The exit code and the output of the command, which asks no network for keys."""
    done = subprocess.run(
        [COMMAND, *map(str, arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    place = tmp_path_factory.mktemp("keys")
    for name in ("own", "other"):
        audit.new_key(place / name / "private.pem", place / name / "public.pem", "p256")
    return place


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "a model"
    for name in ("config.json", "weights/a.bin", "weights.bin", ".gitignore", ".git/config"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def verified(model, keys, name="own", signature=None):
    signature = signature or model / "model.sig"
    public = keys / name / "public.pem"
    return model_signing("verify", "key", model, "--signature", signature, "--public_key", public)


def test_model_signing_accepts_ours_and_refuses_what_was_changed(model, keys):
    audit.sign_model(model, keys / "own/private.pem")
    code, output = verified(model, keys)
    assert (code, "Verification succeeded" in output) == (0, True), output
    assert verified(model, keys, "other")[0] != 0
    (model / "weights.bin").write_text("other")
    code, output = verified(model, keys)
    assert code != 0
    assert "weights.bin" in output


@pytest.mark.parametrize(
    "more", [(), ("--ignore-paths", "config.json"), ("--no-ignore-git-paths",)]
)
def test_ours_reads_those_of_model_signing_and_names_what_was_changed(model, keys, more):
    options = ("--signature", model / "model.sig", "--private_key", keys / "own/private.pem")
    more = [model / each if each == "config.json" else each for each in more]
    code, output = model_signing("sign", "key", model, *options, *more)
    assert code == 0, output
    if "--no-ignore-git-paths" in more:
        # Then git's files are part of the model, and ours leaves them out: it must not pass.
        with pytest.raises(FingerprintError, match="missing"):
            audit.model_signature(model, keys / "own/public.pem")
        return
    found = audit.model_signature(model, keys / "own/public.pem")
    assert found.n_files == 3 - bool(more)
    with pytest.raises(FingerprintError, match="another key"):
        audit.model_signature(model, keys / "other/public.pem")
    (model / "weights/a.bin").write_text("other")
    with pytest.raises(FingerprintError, match=r"changed: weights/a\.bin"):
        audit.model_signature(model, keys / "own/public.pem")


def test_both_write_the_same_statement(model, keys):
    options = ("--signature", model / "model.sig", "--private_key", keys / "own/private.pem")
    assert model_signing("sign", "key", model, *options)[0] == 0
    theirs = payload(model)
    audit.sign_model(model, keys / "own/private.pem")
    ours = payload(model)
    for each in (theirs, ours):
        each["predicate"]["serialization"]["ignore_paths"].sort()
    assert ours == theirs


def payload(model):
    from base64 import b64decode

    bundle = json.loads((model / "model.sig").read_text())
    return json.loads(b64decode(bundle["dsseEnvelope"]["payload"]))


def test_model_signing_accepts_a_signed_fingerprint(fingerprint, keys, tmp_path):
    path = tmp_path / "model.json"
    audit.save_signed(fingerprint, path, keys / "own/private.pem")
    signature = Path(f"{path}.sig")
    code, output = verified(path, keys, signature=signature)
    assert code == 0, output
    path.write_text(path.read_text().replace("tiny-guarded", "tiny-guardee"))
    assert verified(path, keys, signature=signature)[0] != 0
