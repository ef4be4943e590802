"""The command line of the audit, the signatures, and the files that both leave."""

import csv
import json
import stat
import sys

import pytest
from canary_models import CANARIES

import cna_lens
from cna_lens import InputError, audit
from cna_lens.audit.fingerprints import fingerprint as fingerprints
from cna_lens.cli import main
from cna_lens.cli.audit import commands
from cna_lens.errors import FingerprintError


@pytest.fixture(scope="module")
def model(guarded):
    return guarded


@pytest.fixture(scope="module")
def circuit(guarded_circuit):
    return guarded_circuit


@pytest.fixture(scope="module")
def folder(circuit, guarded_fingerprint, tmp_path_factory):
    """Keys, canaries, and a signed fingerprint that the command took."""
    path = tmp_path_factory.mktemp("audit")
    audit.new_key(path / "private.pem", path / "public.pem")
    audit.new_key(path / "other.pem", path / "other_public.pem")
    with (path / "words.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["harmful", "benign"])
        rows.writerows(zip(CANARIES.harmful, CANARIES.benign, strict=True))
    circuit.save(path / "circuit.json")
    audit.save_signed(guarded_fingerprint, path / "model.json", path / "private.pem")
    return path


@pytest.fixture
def at_hand(monkeypatch, model, folder):
    """The model under the name that commands load, in a folder with the files."""
    monkeypatch.setattr(commands, "load_model", lambda name, device=None: model)
    monkeypatch.chdir(folder)


def exit_code(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


ATTEST = ("audit", "attest", "--model", "m", "--fingerprint", "model.json")
OWN = ("--canaries", "words.csv")


def test_a_match_ends_with_0_and_says_so_as_json(at_hand, capsys):
    assert exit_code(*ATTEST, *OWN, "--verify", "public.pem", "--json") == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "match"


def test_a_tampered_model_ends_with_1_and_a_report(at_hand, model, circuit, tmp_path, capsys):
    page, record = tmp_path / "audit.html", tmp_path / "audit.json"
    with cna_lens.steer(model, circuit, 0.0):
        code = exit_code(*ATTEST, *OWN, "--report", str(page), "--out", str(record))
    assert code == 1
    assert "tampered" in capsys.readouterr().out
    assert "neurons scaled in the weights" in page.read_text()
    assert json.loads(record.read_text())["verdict"] == "tampered"
    # The saved one is a result like others.
    (found,) = cna_lens.report.read_results([record]).results
    assert found.result.kind == "Attestation"


def test_what_cannot_be_decided_ends_with_2(at_hand, monkeypatch):
    monkeypatch.setattr("cna_lens.audit.attestations.verdicts.LEAST_GAP", 1e6)
    assert exit_code(*ATTEST, *OWN) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "are not the canaries"),
        ((*OWN, "--verify", "other_public.pem"), "was signed with another key"),
        ((*OWN, "--verify", "private.pem"), "public key"),
        (("--canaries", "nothing.csv"), "cannot be read"),
        ((*OWN, "--key", "nothing"), "cannot be read"),
    ],
)
def test_bad_input_ends_with_2_and_one_message(at_hand, capsys, more, message):
    assert exit_code(*ATTEST, *more) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_the_command_takes_signs_and_reads_back_a_fingerprint(at_hand, tmp_path, capsys):
    out = tmp_path / "taken.json"
    (tmp_path / "key").write_bytes(b"secret")
    own = (*OWN, "--key", str(tmp_path / "key"))
    arguments = ("--model", "m", "--out", str(out), "--circuit", "circuit.json", *own)
    code = exit_code("audit", "fingerprint", *arguments, "--sign", "private.pem", "--json")
    assert code == 0
    assert json.loads(capsys.readouterr().out)["signed"]
    taken = audit.load_signed(out, "public.pem")
    assert taken.canaries.key is None
    assert exit_code(*ATTEST[:4], "--fingerprint", str(out), *own, "--verify", "public.pem") == 0


def test_a_private_key_that_cannot_be_used_stops_before_the_model_is_loaded(folder, monkeypatch):
    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr(commands, "load_model", never)
    monkeypatch.chdir(folder)
    arguments = ("--model", "m", "--out", "x.json", "--sign", "public.pem")
    assert exit_code("audit", "fingerprint", *arguments) == 2


def test_hooks_end_with_1_where_there_is_one(at_hand, model, circuit, capsys):
    assert exit_code("audit", "hooks", "--model", "m") == 0
    with cna_lens.steer(model, circuit, 1.0, via="hooks"):
        assert exit_code("audit", "hooks", "--model", "m", "--json") == 1
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.index("{") :])["hooks"]


def test_any_altered_byte_is_refused(folder, tmp_path):
    content = (folder / "model.json").read_bytes()
    signature = (folder / "model.json.sig").read_text()
    path = tmp_path / "model.json"
    (tmp_path / "model.json.sig").write_text(signature)
    for place in (0, len(content) // 2, len(content) - 1):
        altered = bytearray(content)
        altered[place] ^= 1
        path.write_bytes(altered)
        with pytest.raises(FingerprintError, match="was altered after it was signed"):
            audit.load_signed(path, folder / "public.pem")
    path.write_bytes(content)
    assert audit.load_signed(path, folder / "public.pem").content() == content


def test_a_missing_or_broken_signature_is_refused(folder, tmp_path):
    path = tmp_path / "model.json"
    path.write_bytes((folder / "model.json").read_bytes())
    with pytest.raises(FingerprintError, match="is not signed"):
        audit.load_signed(path, folder / "public.pem")
    for text, message in (("no hex", "is not a signature"), ("00" * 64, "was altered")):
        (tmp_path / "model.json.sig").write_text(text)
        with pytest.raises(FingerprintError, match=message):
            audit.load_signed(path, folder / "public.pem")


def test_keys_are_never_replaced_and_the_private_one_is_its_owners(folder):
    with pytest.raises(InputError, match="a key is never replaced"):
        audit.new_key(folder / "private.pem", folder / "new.pem")
    assert not (folder / "new.pem").exists()
    mode = stat.S_IMODE((folder / "private.pem").stat().st_mode)
    assert mode == 0o600


def test_without_the_package_signatures_say_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(FingerprintError, match=r"pip install 'cna-lens\[audit\]'"):
        audit.load_signed(folder / "model.json", folder / "public.pem")


def test_an_interruption_leaves_the_old_fingerprint_and_no_half_one(folder, tmp_path, monkeypatch):
    path = tmp_path / "model.json"
    taken = audit.Fingerprint.load(folder / "model.json")
    taken.save(path)
    before = path.read_bytes()

    def interrupted(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fingerprints.Fingerprint.load(folder / "model.json").save(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["model.json"]


def test_an_interruption_before_the_signature_leaves_nothing_that_verifies(
    folder, tmp_path, monkeypatch
):
    taken = audit.Fingerprint.load(folder / "model.json")
    path = tmp_path / "model.json"
    audit.save_signed(taken, path, folder / "other.pem")
    monkeypatch.setattr(
        "cna_lens.audit.fingerprints.signatures.write_atomically",
        lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()),
    )
    with pytest.raises(KeyboardInterrupt):
        audit.save_signed(taken, path, folder / "private.pem")
    with pytest.raises(FingerprintError):
        audit.load_signed(path, folder / "public.pem")


def test_packaged_canaries_are_enough_and_none_of_another_set():
    canaries = audit.Canaries.packaged()
    assert len(canaries.harmful) == len(canaries.benign) == 48
    others = {
        prompt
        for name in cna_lens.models.prompts.sets.PURPOSES
        for side in ("positive", "negative")
        for prompt in getattr(cna_lens.prompt_set(name), side)
    } | set(cna_lens.diverse_prompts())
    assert not others & set(canaries.prompts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("harmful\nw5\n", "columns harmful, benign"),
        ("", "columns harmful, benign"),
        ("harmful,benign\nw5,w6\n", "at least 8"),
        ("harmful,benign\n" + "w5,w6\n" * 8, "twice"),
    ],
)
def test_canaries_that_cannot_be_used_are_refused(tmp_path, text, message):
    path = tmp_path / "canaries.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        audit.Canaries.read(path)


def test_canaries_may_differ_in_number(tmp_path):
    path = tmp_path / "mine.csv"
    rows = [f"w{i},w{i + 30}" for i in range(5, 13)]
    path.write_text("\n".join(["harmful,benign", *rows, "w20,", ",w21", ",w22"]))
    found = audit.Canaries.read(path)
    assert (found.name, len(found.harmful), len(found.benign)) == ("mine", 9, 10)


def test_there_are_no_other_packaged_canaries():
    with pytest.raises(InputError, match="there are: canaries-1"):
        audit.Canaries.packaged("canaries-0")
