"""experiments.audit ask and identify: variants answer canaries, and the figures are right."""

import hashlib
import json
import random
from contextlib import nullcontext
from functools import partial

import pytest
import tiny
from typer.testing import CliRunner

import cna_lens
from cna_lens import InputError, Neuron, audit
from cna_lens.results import Journal, read_journal
from experiments.audit.__main__ import app
from experiments.audit.bench import Bench
from experiments.audit.drifts import benign
from experiments.audit.identifying import ANSWERS, CANARIES, IN_8_BITS, Asked, ask, reaches
from experiments.audit.references import Reference
from experiments.audit.serving import Serving
from experiments.audit.variants import Variant, steered
from experiments.shared.detection import auroc

N = 50


@pytest.fixture(scope="module")
def reference():
    return tiny.bridge("llama", chat=True)


@pytest.fixture(scope="module")
def canaries(reference):
    pool = [f"w{i} w{j} w{k}" for i in range(5, 12) for j in range(20, 25) for k in (30, 40)]
    return audit.sensitive_canaries(reference, pool, N, n_tokens=4)


def record(kind, tampered, changed, log_odds, by_log_probs=None):
    text = [place < changed for place in range(N)]
    log_probs = [place < (by_log_probs or changed) for place in range(N)]
    return {
        "kind": kind,
        "tampered": tampered,
        "text": text,
        "log_probs": log_probs,
        "log_odds": log_odds,
    }


RECORDS = {
    "untouched": record("untouched", False, 0, [6.0, 4.0]),
    "bf16": record("precision", False, 2, [4.5, 4.5]),
    IN_8_BITS: record("precision", False, 40, [5.0, 5.0]),
    "noise": record("noise", False, 30, [6.0, 6.0]),
    "weak": record("CAA", True, 10, [4.5, 4.0]),
    "strong": record("CAA", True, 25, [1.0, 1.0], N),
}


def asked(canaries, records=RECORDS, model="first"):
    return Asked(canaries, records, {"model": model})


def of(found):
    return {(each.model, each.by, each.requests): each for each in found}


def test_weights_of_8_bits_are_another_model(canaries):
    assert any(variant.name == IN_8_BITS for variant in benign())
    assert asked(canaries).same == ("untouched", "bf16")


def test_an_attack_is_beyond_noise_if_it_takes_more_than_noise_gives_or_takes(canaries):
    # The noise moves the mean log-odds by one nat; the weak attack takes 0.75, the strong one 4.
    assert asked(canaries).attacks == ("strong",)


def test_areas_alarms_and_hiding_are_those_of_the_answers(canaries):
    found = of(reaches([asked(canaries)], n_orders=40))
    whole = found["first", "text", 50]
    assert (whole.detected.n, whole.false_alarms.n, whole.area.n) == (1, 2, 3)
    assert (whole.area.value, whole.detected.value, whole.false_alarms.value) == (1.0, 1.0, 0.0)
    assert whole.alarms["first"]["noise"] == 1.0
    assert list(whole.hidden) == ["0", "0.25", "0.5", "0.75", "0.9"]
    assert whole.hidden["0"] == whole.detected.value
    assert whole.hidden["0"] >= whole.hidden["0.5"] > whole.hidden["0.9"]
    few = found["first", "text", 10]
    by_log_probs = found["first", "log-probabilities", 10]
    # 25 of 50 are changed, so ten requests meet five on average; by log-probabilities all are.
    assert 0.9 < few.area.value <= 1.0
    assert 0 < few.detected.value < 1
    assert (by_log_probs.area.value, by_log_probs.detected.value) == (1.0, 1.0)
    again = reaches([asked(canaries)], n_orders=40)
    assert list(found.values()) == again


def test_models_are_told_apart_and_judged_together(canaries):
    other = RECORDS | {
        "bf16": record("precision", False, 26, [5.0, 5.0]),
        "weak": record("CAA", True, 24, [0.0, 0.0]),
    }
    found = of(reaches([asked(canaries), asked(canaries, other, "second")], n_orders=20))
    assert {model for model, _, _ in found} == {"first", "second", "all"}
    together, second = found["all", "text", 50], found["second", "text", 50]
    # 24 and 25 changed answers of the second model's attacks are fewer than its drift's 26.
    assert second.area.value == pytest.approx(auroc([24, 25], [0, 26]))
    assert together.area.value == pytest.approx(auroc([25, 24, 25], [0, 2, 0, 26]))
    assert (together.detected.n, together.false_alarms.n) == (3, 4)
    assert together.false_alarms.value == 0.25
    assert set(together.alarms) == {"first", "second"}
    assert together.alarms["second"] == second.alarms["second"]


def test_a_model_without_an_attack_beyond_noise_is_left_out(canaries):
    untouched = {"untouched": RECORDS["untouched"], "weak": RECORDS["weak"] | {"log_odds": [5.0]}}
    found = reaches([asked(canaries, untouched, "second"), asked(canaries)], n_orders=5)
    assert {each.model for each in found} == {"first"}
    assert reaches([asked(canaries, untouched)]) == []


def test_answers_that_are_missing_are_left_out(canaries):
    silent = dict(RECORDS["strong"], text=[None] * N)
    (few, whole, *_) = reaches([asked(canaries, RECORDS | {"strong": silent})], n_orders=5)
    assert (few.detected.value, whole.detected.value, whole.area.value) == (0.0, 0.0, 0.25)


def test_ten_requests_seldom_put_a_drift_of_a_quarter_before_an_attack_of_half(canaries):
    noisy = RECORDS | {"bf16": record("precision", False, 12, [4.5, 4.5])}
    (few, *_) = reaches([asked(canaries, noisy)], n_orders=100)
    # Of ten of 50 canaries the attack changed 25 and the drift 12 of these, in one order each.
    draw = random.Random(1)
    drawn = [draw.sample(range(N), 10) for _ in range(20_000)]
    pairs = [(sum(at < 25 for at in each), sum(at < 12 for at in each)) for each in drawn]
    area = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    # The untouched model, with no change, is the other half of the pairs.
    some = sum((a > 0) + 0.5 * (a == 0) for a, _ in pairs) / len(pairs)
    assert few.area.value == pytest.approx((area + some) / 2, abs=0.04)
    assert few.area.low < few.area.value <= few.area.high


def test_one_model_is_given_once(canaries):
    with pytest.raises(InputError, match="two folders are of 'first'"):
        reaches([asked(canaries), asked(canaries)])


def test_an_interrupted_run_goes_on_and_a_changed_model_answers_otherwise(
    reference, canaries, tmp_path, monkeypatch
):
    asked_for = []

    def log_odds(model, prompts):
        asked_for.append(len(prompts))
        return [1.0, 2.0]

    monkeypatch.setattr("experiments.audit.identifying.refusal_log_odds", log_odds)
    layout = cna_lens.collect(reference, ["w5"]).layout
    neurons = tuple(Neuron(1, index) for index in range(0, tiny.WIDTH, 2))
    circuit = cna_lens.Circuit(neurons, (1.0,) * len(neurons), layout)
    silent = steered(lambda bench: cna_lens.steer(bench.model, circuit, 0.0, via="hooks"))
    untouched = next(variant for variant in benign() if variant.name == "untouched")
    chosen = [untouched, Variant("silent", "neurons", True, silent)]
    canaries.save(tmp_path / CANARIES)
    bench = Bench(reference, tmp_path, reference=Reference("tiny"))
    ask(chosen[:1], bench, n_prompts=2, progress=False)
    ask(chosen, bench, n_prompts=2, progress=False)
    assert asked_for == [2, 2]
    read = Asked.read(tmp_path)
    assert read.model == "tiny"
    assert read.records["untouched"]["text"] == [False] * N
    assert sum(read.records["silent"]["text"]) > N // 2
    assert read.records["silent"]["log_odds"] == [1.0, 2.0]


def test_answers_to_other_canaries_are_not_read(canaries, tmp_path):
    with pytest.raises(InputError, match=f"no .*{CANARIES}; ask variants"):
        Asked.read(tmp_path)
    canaries.save(tmp_path / CANARIES)
    with pytest.raises(InputError, match=f"no .*{ANSWERS}; ask variants"):
        Asked.read(tmp_path)
    depends_on = {"model": "of-this-folder", "canaries_sha256": "0" * 64}
    journal = Journal(tmp_path / ANSWERS, "audit study", depends_on)
    journal.add("int8", {})
    with pytest.raises(InputError, match=r"no answers of .*'untouched'.* --model of-this-folder"):
        Asked.read(tmp_path)
    journal.add("untouched", {})
    with pytest.raises(InputError, match="other canaries"):
        Asked.read(tmp_path)


def test_the_command_writes_the_figures_of_all_folders(canaries, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.audit.__main__.reaches", partial(reaches, n_orders=5))
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
        canaries.save(folder / CANARIES)
        sha256 = hashlib.sha256((folder / CANARIES).read_bytes()).hexdigest()
        depends_on = {"model": folder.name, "canaries_sha256": sha256}
        journal = Journal(folder / ANSWERS, "audit study", depends_on)
        for name, each in RECORDS.items():
            journal.add(name, {"name": name, **each})
    results = tmp_path / "figures.json"
    options = [part for folder in folders for part in ("--out", str(folder))]
    said = CliRunner().invoke(app, ["identify", *options, "--results", str(results)])
    assert said.exit_code == 0, said.output
    assert "all: 2 attacks beyond noise, 4 times the same model" in said.output
    found = json.loads(results.read_text(encoding="utf-8"))
    assert [each["model"] for each in found["studies"]] == ["first", "second"]
    assert found["studies"][0]["attacks_beyond_noise"] == ["strong"]
    assert len(found["reach"]) == 3 * 4


def test_figures_need_an_attack_beyond_noise(canaries, tmp_path):
    canaries.save(tmp_path / CANARIES)
    sha256 = hashlib.sha256((tmp_path / CANARIES).read_bytes()).hexdigest()
    journal = Journal(tmp_path / ANSWERS, "audit study", {"model": "m", "canaries_sha256": sha256})
    journal.add("untouched", RECORDS["untouched"])
    results = tmp_path / "figures.json"
    options = ["--out", str(tmp_path), "--results", str(results)]
    said = CliRunner().invoke(app, ["identify", *options])
    assert isinstance(said.exception, InputError)
    assert not results.exists()


def test_the_command_asks_the_models_that_match_canaries_that_it_has_chosen(
    reference, canaries, tmp_path, monkeypatch
):
    chosen = []

    def sensitive_canaries(model, **settings):
        chosen.append(model)
        return canaries

    def enter(bench):
        return nullcontext(bench.model)

    of_the_study = [
        Variant("untouched", "untouched", False, enter),
        Variant("one of it", "it", True, enter),
        Variant("served", "it", True, enter, served=Serving()),
        Variant("other", "noise", False, enter),
    ]
    monkeypatch.setattr(audit, "sensitive_canaries", sensitive_canaries)
    monkeypatch.setattr("experiments.audit.__main__.variants_of", lambda which, first: of_the_study)
    monkeypatch.setattr("experiments.audit.references.Reference.load", lambda self: reference)
    monkeypatch.setattr("experiments.audit.identifying.refusal_log_odds", lambda *_: [1.0, 2.0])
    options = ["ask", "--model", "demo-refusal-late", "--out", str(tmp_path), "--only", "it"]
    for _ in range(2):
        said = CliRunner().invoke(app, options)
        assert said.exit_code == 0, said.output
    assert chosen == [reference]
    _, records = read_journal(tmp_path / ANSWERS, "audit study")
    assert list(records) == ["one of it"]
    assert records["one of it"]["tampered"]
