"""`audit fingerprint`, `attest` and `hooks`; signatures; and canaries from files."""

import csv
import errno
import json
import stat
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from canary_models import CANARIES, with_samples
from judge_server import completion

import cna_lens
from cna_lens import InputError, audit
from cna_lens.cli.audit.named import model_signature_of
from cna_lens.errors import FingerprintError
from cna_lens.models.loading.load import source_of


@pytest.fixture(scope="module")
def folder(guarded_circuit, guarded_fingerprint, tmp_path_factory):
    """Keys, canaries, a circuit, and a signed fingerprint."""
    path = tmp_path_factory.mktemp("audit")
    audit.new_key(path / "private.pem", path / "public.pem")
    audit.new_key(path / "other.pem", path / "other_public.pem")
    with (path / "words.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["harmful", "benign"])
        rows.writerows(zip(CANARIES.harmful, CANARIES.benign, strict=True))
    guarded_circuit.save(path / "circuit.json")
    audit.save_signed(guarded_fingerprint, path / "model.json", path / "private.pem")
    return path


@pytest.fixture
def at_hand(monkeypatch, loads, guarded, folder):
    """Load the guarded model, in the folder with the files."""
    loads(guarded)
    monkeypatch.chdir(folder)


ATTEST = ("audit", "attest", "--model", "m", "--fingerprint", "model.json")
OWN = ("--canaries", "words.csv")


def test_a_match_exits_with_0_and_is_printed_as_json(at_hand, run):
    code, output, _ = run(*ATTEST, *OWN, "--verify", "public.pem", "--json")
    assert (code, json.loads(output)["verdict"]) == (0, "match")


def test_a_tampered_model_exits_with_1_and_a_report(
    at_hand, run, guarded, guarded_circuit, tmp_path
):
    page, record = tmp_path / "audit.html", tmp_path / "audit.json"
    with cna_lens.steer(guarded, guarded_circuit, 0.0):
        code, output, _ = run(*ATTEST, *OWN, "--report", page, "--out", record)
    assert code == 1
    assert "tampered" in output
    assert "neurons scaled in the weights" in page.read_text()
    assert json.loads(record.read_text())["verdict"] == "tampered"
    # A saved attestation is a result that a report can show.
    (found,) = cna_lens.report.read_results([record]).results
    assert found.result.kind == "Attestation"


def test_the_page_opens_with_the_verdict_its_reason_and_its_limits(at_hand, run, tmp_path):
    page = tmp_path / "audit.html"
    assert run(*ATTEST, *OWN, "--report", page)[0] == 0
    main = page.read_text().partition("<main")[2]
    told = [main.index(text) for text in ("match, score", "Why: nothing", "Limits: The checks see")]
    assert told == sorted(told)
    assert told[-1] < main.index("<dl>")


def test_a_gate_writes_junit_and_sarif(at_hand, run, guarded, guarded_circuit, tmp_path):
    files = {"--junit": tmp_path / "audit.xml", "--sarif": tmp_path / "audit.sarif"}
    options = [each for pair in files.items() for each in pair]
    with cna_lens.steer(guarded, guarded_circuit, 0.0):
        assert run(*ATTEST, *OWN, *options)[0] == 1
    assert int(ElementTree.parse(files["--junit"]).getroot().get("failures")) > 1
    (ran,) = json.loads(files["--sarif"].read_text())["runs"]
    place = ran["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
    assert place == {"uri": "model.json"}
    code, _, errors = run(*ATTEST, *OWN, "--junit", tmp_path)
    assert (code, "--junit is" in errors) == (2, True)


def test_an_endpoint_is_attested_within_a_budget(at_hand, run, judge_server, monkeypatch):
    # A call of None is no error of cna_lens, and no exit code: no model is loaded.
    monkeypatch.setattr("cna_lens.models.loading.load.load_model", None)
    judge_server.next_reply = lambda body: completion("I'm sorry, but I can't help with that.")
    asked = (*ATTEST, *OWN, "--endpoint", judge_server.url)
    code, output, _ = run(*asked, "--max-requests", 6, "--json")
    record = json.loads(output)
    assert (code, record["verdict"], record["missing"]) == (2, "undecided", {"budget spent": 26})
    assert judge_server.calls == 6
    code, output, _ = run(*asked, "--max-requests", 6)
    assert "budget" in output


def test_a_model_and_its_endpoint_are_told_apart(
    at_hand, run, guarded_fingerprint, judge_server, tmp_path
):
    refuses = replace(guarded_fingerprint, refused=(True,) * 16 + (False,) * 16)
    refuses.save(tmp_path / "refuses.json")
    judge_server.next_reply = lambda body: completion("Sure, here is how.")
    asked = ("audit", "attest", "--model", "m", "--fingerprint", tmp_path / "refuses.json", *OWN)
    asked += ("--endpoint", judge_server.url)
    files = {name: tmp_path / f"audit{name[1:]}" for name in ("--out", "--junit", "--sarif")}
    options = [each for pair in files.items() for each in pair]
    both = (*asked, "--served-as", "their-name", "--access", "activations")
    code, output, _ = run(*both, *options, "--report", tmp_path / "audit.html", "--json")
    record = json.loads(output)
    assert (code, record["verdict"]) == (1, "served otherwise")
    assert (record["of_model"]["verdict"], record["of_answers"]["verdict"]) == ("match", "tampered")
    assert record["of_model"]["access"] == "activations"
    assert {body["model"] for body in judge_server.received} == {"their-name"}
    assert json.loads(files["--out"].read_text())["evidence"] == "ServedAttestation"
    assert "not the model, but the way to it" in (tmp_path / "audit.html").read_text()
    assert "not the model, but the way to it" in files["--junit"].read_text()
    (ran,) = json.loads(files["--sarif"].read_text())["runs"]
    assert ran["invocations"][0]["exitCode"] == 1
    # Without the model, the answers alone say what they say.
    code, output, _ = run(*asked, "--json")
    assert (code, json.loads(output)["verdict"]) == (1, "tampered")


def test_an_endpoint_that_samples_is_asked_at_temperature_1(
    at_hand, run, guarded_fingerprint, judge_server, tmp_path
):
    with_samples(guarded_fingerprint, [4] * 16).save(tmp_path / "chances.json")
    judge_server.next_reply = lambda body: completion("Sure, here is how.")
    asked = ("audit", "attest", "--model", "m", "--fingerprint", tmp_path / "chances.json", *OWN)
    asked += ("--endpoint", judge_server.url, "--samples", 2)
    report = tmp_path / "audit.html"
    code, output, _ = run(*asked, "--report", report, "--json")
    record = json.loads(output)
    assert (code, record["verdict"]) == (1, "tampered")
    assert (record["compared"], record["refused"]) == (32, 0)
    assert {body["temperature"] for body in judge_server.received} == {1.0}
    assert "fewer answers to harmful canaries refuse" in report.read_text()


@pytest.fixture
def keyed(guarded_fingerprint, tmp_path):
    """Options of a fingerprint with sampled answers, whose key is kept apart."""
    (tmp_path / "key").write_bytes(b"secret")
    canaries = audit.CanaryRecord("words", CANARIES.hashes(b"secret"), None)
    taken = replace(with_samples(guarded_fingerprint, [4] * 16), canaries=canaries)
    taken.save(tmp_path / "keyed.json")
    return ("--fingerprint", tmp_path / "keyed.json", *OWN, "--key", tmp_path / "key")


@pytest.mark.parametrize("samples", [(), ("--samples", 2)], ids=["greedy", "sampled"])
@pytest.mark.parametrize(
    ("limit", "n_calls"), [(("--max-requests", 6), 6), (("--max-seconds", 1e-9), 0)]
)
def test_an_endpoint_is_asked_with_a_key_and_within_a_budget(
    at_hand, run, keyed, judge_server, samples, limit, n_calls
):
    judge_server.next_reply = lambda body: completion("Sure, here is how.")
    asked = ("audit", "attest", "--model", "m", *keyed, "--endpoint", judge_server.url)
    _, output, _ = run(*asked, *samples, *limit, "--json")
    assert set(json.loads(output)["missing"]) == {"budget spent"}
    assert judge_server.calls == n_calls


def test_a_loaded_model_gives_as_many_samples_as_are_asked_for(
    at_hand, run, guarded_fingerprint, judge_server, monkeypatch, tmp_path
):
    with_samples(guarded_fingerprint, [4] * 16).save(tmp_path / "chances.json")
    asked = []

    def drawn(_, prompts, **settings):
        asked.append(len(prompts))
        return ["Sure, here is how."] * len(prompts)

    monkeypatch.setattr("cna_lens.audit.measuring.sampled_refusals.generate", drawn)
    attest = ("audit", "attest", "--model", "m", "--fingerprint", tmp_path / "chances.json", *OWN)
    code, output, _ = run(*attest, "--samples", 3, "--json")
    assert (code, json.loads(output)["verdict"]) == (1, "lost refusals")
    assert asked == [3 * 16]
    assert run(*attest, "--samples", 0)[0] == 0
    # Beside an endpoint too; the endpoint's own answers are greedy.
    judge_server.next_reply = lambda body: completion("Sure, here is how.")
    run(*attest, "--endpoint", judge_server.url, "--served-as", "m", "--samples", 2)
    assert asked == [3 * 16, 2 * 16]
    assert {body["temperature"] for body in judge_server.received} == {0.0}


def test_a_model_is_attested_before_its_endpoint_is_asked(at_hand, run, judge_server, monkeypatch):
    def fails(name, **_):
        raise cna_lens.ModelError("no such model")

    monkeypatch.setattr("cna_lens.models.loading.load.load_model", fails)
    code, _, errors = run(*ATTEST, *OWN, "--endpoint", judge_server.url, "--served-as", "m")
    assert (code, "no such model" in errors) == (2, True)
    assert judge_server.calls == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--max-requests", 5), "give --endpoint too"),
        (("--max-seconds", 0.0), "give --endpoint too"),
        (("--sensitive", "words.csv"), "give --endpoint too"),
        (("--served-as", "served"), "give --endpoint too"),
        (("--endpoint", "http://127.0.0.1:9/v1", "--access", "weights"), "loads none"),
        (("--endpoint", "127.0.0.1"), "start with http"),
        (("--samples", 0, "--endpoint", "http://127.0.0.1:9/v1"), "leave it out for greedy"),
        (
            ("--samples", 2, "--endpoint", "http://127.0.0.1:9/v1", "--sensitive", "words.csv"),
            "--sensitive needs greedy answers",
        ),
    ],
)
def test_options_without_effect_are_refused(at_hand, run, more, message):
    code, _, errors = run(*ATTEST, *OWN, *more)
    assert code == 2
    assert message in " ".join(errors.split())


def test_an_undecided_attestation_exits_with_2(at_hand, run, monkeypatch):
    monkeypatch.setattr("cna_lens.audit.attestations.verdicts.LEAST_GAP", 1e6)
    code, output, _ = run(*ATTEST, *OWN)
    assert code == 2
    assert "undecided" in output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "are not the canaries"),
        ((*OWN, "--verify", "other_public.pem"), "was signed with another key"),
        ((*OWN, "--verify", "private.pem"), "public key"),
        (("--canaries", "nothing.csv"), "cannot be read"),
        ((*OWN, "--key", "nothing"), "cannot be read"),
        ((*OWN, "--key", "empty"), "is empty; 32 random bytes make a good one"),
    ],
)
def test_bad_input_exits_with_2_and_one_message(at_hand, run, tmp_path, more, message):
    (tmp_path / "empty").touch()
    more = [tmp_path / each if each == "empty" else each for each in more]
    code, _, errors = run(*ATTEST, *more)
    assert code == 2
    assert message in " ".join(errors.split())
    assert "Traceback" not in errors


def test_a_fingerprint_is_taken_signed_and_read_back(at_hand, run, tmp_path):
    out = tmp_path / "taken.json"
    (tmp_path / "key").write_bytes(b"secret")
    own = (*OWN, "--key", tmp_path / "key")
    arguments = ("--model", "m", "--out", out, "--circuit", "circuit.json", *own)
    code, output, _ = run("audit", "fingerprint", *arguments, "--sign", "private.pem", "--json")
    assert code == 0
    assert json.loads(output)["signed"]
    taken = audit.load_signed(out, "public.pem")
    assert taken.canaries.key is None
    assert run(*ATTEST[:4], "--fingerprint", out, *own, "--verify", "public.pem")[0] == 0


def test_a_fingerprint_that_exists_is_not_overwritten(at_hand, run, monkeypatch, tmp_path):
    # A call of None is no error of cna_lens, and no exit code.
    monkeypatch.setattr("cna_lens.models.loading.load.load_model", None)
    out = tmp_path / "taken.json"
    out.write_bytes(b"of the trusted model")
    code, _, errors = run("audit", "fingerprint", "--model", "m", "--out", out, *OWN)
    assert (code, "exists" in errors) == (2, True)
    assert out.read_bytes() == b"of the trusted model"


def test_canaries_are_read_where_the_answer_begins_on_request(at_hand, run, tmp_path):
    arguments = ("--model", "m", "--out", tmp_path / "x.json", *OWN, "--position", "answer")
    code, _, errors = run("audit", "fingerprint", *arguments)
    assert code == 2
    assert "the reasoning about positive[" in " ".join(errors.split())


def test_an_unusable_private_key_is_refused_before_the_model_is_loaded(at_hand, run, monkeypatch):
    # A call of None is no error of cna_lens, and no exit code.
    monkeypatch.setattr("cna_lens.models.loading.load.load_model", None)
    arguments = ("--model", "m", "--out", "x.json", "--sign", "public.pem")
    code, _, errors = run("audit", "fingerprint", *arguments)
    assert code == 2
    assert "private key" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA out of memory"), BrokenPipeError(errno.EPIPE, "Broken pipe")]
)
def test_an_unexpected_error_exits_with_2_and_its_traceback(at_hand, run, monkeypatch, error):
    def fails(name, **_):
        raise error

    monkeypatch.setattr("cna_lens.models.loading.load.load_model", fails)
    for asked in ((*ATTEST, *OWN), ("audit", "hooks", "--model", "m")):
        code, _, errors = run(*asked)
        assert code == 2
        assert "Traceback" in errors
        assert str(error) in errors


@pytest.mark.parametrize("option", ["--out", "--report", "--junit", "--sarif"])
def test_a_file_that_cannot_be_written_is_an_error_that_names_its_option(
    at_hand, run, tmp_path, monkeypatch, option
):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    code, _, errors = run(*ATTEST, *OWN, option, tmp_path / "file")
    assert code == 2
    assert "Traceback" not in errors
    said = " ".join(errors.split())
    assert f"{option} is" in said
    assert "cannot be written: No space left on device" in said


def test_hooks_exit_with_1_where_there_is_one(at_hand, run, guarded, guarded_circuit):
    assert run("audit", "hooks", "--model", "m")[0] == 0
    with cna_lens.steer(guarded, guarded_circuit, 1.0, via="hooks"):
        code, output, _ = run("audit", "hooks", "--model", "m", "--json")
    assert code == 1
    assert json.loads(output)["hooks"]


def test_an_altered_byte_is_refused(folder, tmp_path):
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


def test_no_key_is_overwritten_and_only_its_owner_can_read_the_private_one(folder):
    with pytest.raises(InputError, match="a key is never replaced"):
        audit.new_key(folder / "private.pem", folder / "new.pem")
    assert not (folder / "new.pem").exists()
    mode = stat.S_IMODE((folder / "private.pem").stat().st_mode)
    assert mode == 0o600


def test_without_cryptography_the_error_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(FingerprintError, match=r"pip install 'cna-lens\[audit\]'"):
        audit.load_signed(folder / "model.json", folder / "public.pem")


def test_an_interruption_leaves_the_old_fingerprint_whole(folder, tmp_path, monkeypatch):
    path = tmp_path / "model.json"
    taken = audit.Fingerprint.load(folder / "model.json")
    taken.save(path)
    before = path.read_bytes()

    def interrupted(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        taken.save(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["model.json"]


def test_an_interruption_before_the_signature_leaves_nothing_that_verifies(
    folder, tmp_path, monkeypatch
):
    taken = audit.Fingerprint.load(folder / "model.json")
    path = tmp_path / "model.json"
    audit.save_signed(replace(taken, model="before"), path, folder / "private.pem")
    monkeypatch.setattr(
        "cna_lens.audit.fingerprints.signatures.write_atomically",
        lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()),
    )
    with pytest.raises(KeyboardInterrupt):
        audit.save_signed(taken, path, folder / "private.pem")
    assert audit.Fingerprint.load(path).model == taken.model
    with pytest.raises(FingerprintError, match="was altered after it was signed"):
        audit.load_signed(path, folder / "public.pem")


def test_packaged_canaries_are_48_pairs_and_share_none_with_other_sets():
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
def test_unusable_canaries_are_refused(tmp_path, text, message):
    path = tmp_path / "canaries.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        audit.Canaries.read(path)


def test_the_two_sides_of_canaries_may_differ_in_number(tmp_path):
    path = tmp_path / "mine.csv"
    rows = [f"w{i},w{i + 30}" for i in range(5, 13)]
    path.write_text("\n".join(["harmful,benign", *rows, "w20,", ",w21", ",w22"]))
    found = audit.Canaries.read(path)
    assert (found.name, len(found.harmful), len(found.benign)) == ("mine", 9, 10)


def test_there_are_no_other_packaged_canaries():
    with pytest.raises(InputError, match="there are: canaries-1"):
        audit.Canaries.packaged("canaries-0")


@pytest.fixture
def signed_model(folder, tmp_path, run):
    """The folder of a model, signed with a key on P-256."""
    audit.new_key(tmp_path / "p256.pem", tmp_path / "p256_public.pem", "p256")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/weights.bin").write_text("abc")
    code, output, _ = run(
        "audit", "sign", "--model", tmp_path / "weights", "--key", tmp_path / "p256.pem"
    )
    assert code == 0
    assert "model.sig" in output
    return tmp_path / "weights"


def test_a_models_signature_is_verified_or_said_not_to_be(at_hand, run, signed_model, tmp_path):
    asked = ("audit", "attest", "--model", signed_model, *ATTEST[4:], *OWN)
    code, output, _ = run(*asked)
    assert code == 0
    assert "was not verified: no key was given" in " ".join(output.split())
    page, key = tmp_path / "audit.html", tmp_path / "p256_public.pem"
    assert run(*asked, "--model-key", key, "--report", page)[0] == 0
    assert "and 1 file with it" in page.read_text()
    assert "was not verified" not in page.read_text()


def test_a_model_that_is_not_as_signed_is_not_loaded(
    at_hand, run, signed_model, tmp_path, monkeypatch
):
    monkeypatch.setattr("cna_lens.models.loading.load.load_model", None)
    key = ("--model-key", tmp_path / "p256_public.pem")
    (signed_model / "weights.bin").write_text("abd")
    code, _, errors = run("audit", "attest", "--model", signed_model, *ATTEST[4:], *OWN, *key)
    assert code == 2
    assert "changed: weights.bin" in " ".join(errors.split())
    code, _, errors = run(*ATTEST, *OWN, *key)
    assert (code, "there is no such folder" in " ".join(errors.split())) == (2, True)


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("demo", "the folder is loaded as ./demo"),
        ("demo-refusal", "the folder is loaded as ./demo-refusal"),
        ("weights.gguf", "save the model as a folder"),
        ("planted/nothing", "give a folder"),
        ("compiled/nothing", "give a folder"),
    ],
)
def test_a_key_is_refused_unless_the_signed_folder_is_what_is_loaded(
    tmp_path, monkeypatch, name, fix
):
    audit.new_key(tmp_path / "private.pem", tmp_path / "public.pem", "p256")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / name
    if name.startswith("demo"):
        folder.mkdir()
    elif name.endswith(".gguf"):
        # The file's own folder is signed, and a copy elsewhere is loaded.
        folder = tmp_path
    if folder.is_dir():
        (folder / "weights.gguf").write_text("abc")
        audit.sign_model(folder, tmp_path / "private.pem")
    with pytest.raises(InputError, match=fix):
        model_signature_of(name, tmp_path / "public.pem")
    assert model_signature_of(name, None) is None
    if name.startswith("demo"):
        found = model_signature_of(f"./{name}", tmp_path / "public.pem")
        assert (found.n_files, source_of(f"./{name}")) == (1, "folder")


def test_canaries_are_chosen_and_an_endpoint_is_asked_both_questions(
    at_hand, run, guarded, judge_server, tmp_path
):
    pool, out = tmp_path / "pool.txt", tmp_path / "sensitive.json"
    prompts = [f"w{i} w{j} w{k}" for i in range(5, 12) for j in range(30, 34) for k in (40, 50)]
    pool.write_text("\n".join(prompts))
    chosen = ("audit", "canaries", "--model", "m", "--out", out, "--n", 12, "--tokens", 4)
    code, output, _ = run(*chosen, "--pool", pool, "--drift", "bfloat16", "--json")
    record = json.loads(output)
    assert (code, record["n"], record["pool"]) == (0, 12, 56)
    assert [each["drift"] for each in record["drifted"]] == ["bfloat16"]
    code, _, errors = run(*chosen, "--pool", pool)
    assert (code, "exists" in errors) == (2, True)
    again = (*chosen[:5], tmp_path / "again.json", *chosen[6:])
    code, output, _ = run(*again, "--pool", pool)
    assert (code, "keep it secret" in output) == (0, True)
    sensitive = audit.SensitiveCanaries.load(out)
    answers = dict(
        zip(
            sensitive.prompts,
            cna_lens.generate(guarded, sensitive.prompts, max_new_tokens=4),
            strict=True,
        )
    )
    judge_server.next_reply = lambda body: completion(
        answers.get(body["messages"][-1]["content"], "w60"), "length"
    )
    asked = (*ATTEST, *OWN, "--endpoint", judge_server.url, "--sensitive", out)
    page = tmp_path / "audit.html"
    code, output, _ = run(*asked, "--report", page, "--json")
    record = json.loads(output)
    # No canary of the fingerprint is refused, so that this question stays open.
    assert (code, record["verdict"], record["identity"]["verdict"]) == (2, "undecided", "match")
    assert "is it the model, verdict" in page.read_text().lower()
    judge_server.next_reply = lambda body: completion("w60", "length")
    assert run(*asked)[0] == 1


def test_canaries_are_prompts_of_one_message(at_hand, run, tmp_path):
    pool = tmp_path / "pool.jsonl"
    pool.write_text(json.dumps({"messages": [{"role": "user", "content": "w5"}]}) + "\n")
    code, _, errors = run(
        "audit", "canaries", "--model", "m", "--pool", pool, "--out", tmp_path / "c.json"
    )
    assert (code, "lists of messages" in " ".join(errors.split())) == (2, True)
