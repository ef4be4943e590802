"""experiments.audit identify: variants answer sensitive canaries, and the figures are right."""

import pytest
import tiny

import cna_lens
from cna_lens import Neuron, audit
from cna_lens.results import Journal
from experiments.audit.attacks import tampered
from experiments.audit.bench import Bench
from experiments.audit.drifts import benign
from experiments.audit.identifying import FIRST, SAME_MODEL, ask, beyond_noise, reaches
from experiments.audit.variants import Variant, steered

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
    "noise": record("noise", False, 30, [6.0, 6.0]),
    "weak": record("CAA", True, 10, [4.5, 4.0]),
    "strong": record("CAA", True, 25, [1.0, 1.0], N),
}


def test_the_chosen_variants_exist_and_some_of_them_are_the_same_model():
    variants = {variant.name: variant for variant in (*benign(), *tampered())}
    assert set(FIRST) <= set(variants)
    same = [name for name in FIRST if variants[name].kind in SAME_MODEL]
    assert len(same) >= 6
    assert not any(variants[name].tampered for name in same)
    assert sum(variants[name].tampered for name in FIRST) >= 6


def test_an_attack_is_beyond_noise_if_it_takes_more_than_noise_gives_or_takes():
    # The noise moves the mean log-odds by one nat; the weak attack takes 0.75, the strong one 4.
    assert beyond_noise(RECORDS) == ["strong"]


def test_areas_alarms_and_hiding_are_those_of_the_answers(canaries):
    found = {(each.by, each.requests): each for each in reaches(RECORDS, canaries, n_orders=40)}
    whole = found["text", 50]
    assert (whole.n_attacks, whole.n_same) == (1, 2)
    assert (whole.area, whole.detected, whole.false_alarms) == (1.0, 1.0, 0.0)
    assert whole.alarms["noise"] == 1.0
    assert list(whole.hidden) == ["0", "0.25", "0.5", "0.75", "0.9"]
    assert whole.hidden["0"] == whole.detected
    assert whole.hidden["0"] >= whole.hidden["0.5"] > whole.hidden["0.9"]
    few, by_log_probs = found["text", 10], found["log-probabilities", 10]
    # 25 of 50 are changed, so ten requests meet five on average; by log-probabilities all are.
    assert 0.9 < few.area <= 1.0
    assert 0 < few.detected < 1
    assert (by_log_probs.area, by_log_probs.detected) == (1.0, 1.0)
    again = reaches(RECORDS, canaries, n_orders=40)
    assert list(found.values()) == again


def test_answers_that_are_missing_are_left_out(canaries):
    silent = dict(RECORDS["strong"], text=[None] * N)
    (few, whole, *_) = reaches(RECORDS | {"strong": silent}, canaries, n_orders=5)
    assert (few.detected, whole.detected, whole.area) == (0.0, 0.0, 0.25)


def test_an_interrupted_run_goes_on_and_a_changed_model_answers_otherwise(
    reference, canaries, tmp_path, monkeypatch
):
    asked = []

    def log_odds(model, prompts):
        asked.append(len(prompts))
        return [1.0, 2.0]

    monkeypatch.setattr("experiments.audit.identifying.refusal_log_odds", log_odds)
    layout = cna_lens.collect(reference, ["w5"]).layout
    neurons = tuple(Neuron(1, index) for index in range(0, tiny.WIDTH, 2))
    circuit = cna_lens.Circuit(neurons, (1.0,) * len(neurons), layout)
    silent = steered(lambda bench: cna_lens.steer(bench.model, circuit, 0.0, via="hooks"))
    untouched = next(variant for variant in benign() if variant.name == "batches of 3")
    chosen = [untouched, Variant("silent", "neurons", True, silent)]
    bench = Bench(reference, tmp_path)

    def journal():
        return Journal(tmp_path / "identities.jsonl", "audit study", {})

    ask(chosen[:1], bench, canaries, journal(), n_prompts=2, progress=False)
    ask(chosen, bench, canaries, journal(), n_prompts=2, progress=False)
    assert asked == [2, 2]
    records = journal()
    assert records["batches of 3"]["text"] == [False] * N
    assert sum(records["silent"]["text"]) > N // 2
    assert records["silent"]["log_odds"] == [1.0, 2.0]
