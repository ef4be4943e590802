"""experiments.audit: variants restore the reference, and the figures are right."""

import random
from dataclasses import dataclass, replace

import pytest
import tiny
import torch
from audit_bench import logits, tiny_bench

import cna_lens
from cna_lens import InputError, audit
from cna_lens.metrics import refusal_log_odds
from cna_lens.models.inside.scalings import scaled_neurons
from cna_lens.results import Journal
from experiments.audit import weight_edits
from experiments.audit.analysis import analysed, level
from experiments.audit.attacks import tampered
from experiments.audit.attacks.set_back import weakened_adapter
from experiments.audit.drifts import benign
from experiments.audit.drifts.numerics import random_neurons
from experiments.audit.evasion import Attack, attacks, evade, largest_below, spoofed
from experiments.audit.halves import Audit, halved
from experiments.audit.running import run
from experiments.audit.variants import Variant, steered
from experiments.audit.watching import shuffled_requests, watched
from experiments.shared.detection import auroc, auroc_with_interval, chosen_threshold


@dataclass(frozen=True)
class Check:
    name: str
    statistic: float
    threshold: float
    p_value: float


@dataclass(frozen=True)
class Attestation:
    verdict: str
    score: float
    checks: tuple


@dataclass(frozen=True)
class Answered:
    verdict: str
    score: float


@dataclass(frozen=True)
class ByLogits:
    """A stand-in for the audit: how far the logits have moved."""

    reference: torch.Tensor

    def observe(self, model, **_):
        return float((logits(model) - self.reference).abs().max())

    def judge(self, seen, **_):
        verdict = "tampered" if seen > 0.5 else "match"
        return Attestation(verdict, seen, (Check("logits", seen, 0.5, 1.0),))

    def ask(self, model, **_):
        return Answered("match", 2 * self.observe(model))


@pytest.fixture(scope="module")
def reference():
    return tiny.bridge("llama", chat=True)


@pytest.fixture
def bench(reference, tmp_path):
    return tiny_bench(reference, tmp_path)


SLOW = ("fine-tune", "computed in", "trained against")
VARIANTS = {
    variant.name: variant
    for variant in (*benign(), *tampered())
    if not variant.name.startswith(SLOW)
}


def test_there_are_at_least_sixty_of_each_side_and_no_two_share_a_name():
    sides = benign(), tampered()
    assert all(len(side) >= 60 for side in sides)
    assert len({variant.name for side in sides for variant in side}) == sum(map(len, sides))
    assert [{variant.tampered for variant in side} for side in sides] == [{False}, {True}]


@pytest.mark.long
def test_every_variant_leaves_weights_hooks_and_outputs_as_they_were(bench):
    before = logits(bench.model)
    weights = cna_lens.weights_hash(bench.model)
    for variant in VARIANTS.values():
        with variant.enter(bench) as model:
            logits(model)
        assert cna_lens.weights_hash(bench.model) == weights, variant.name
        assert torch.equal(logits(bench.model), before), variant.name
    assert audit.hooks(bench.model) == ()


def test_a_variant_is_undone_when_the_audit_raises(bench):
    before = logits(bench.model)
    for name in ("adapter at 0", "CAA, MLPs, 1, biases", "int8", "relp 1.0% x 0 by weights"):
        with pytest.raises(RuntimeError), VARIANTS[name].enter(bench):
            raise RuntimeError
        assert torch.equal(logits(bench.model), before), name


def test_tampered_variants_change_outputs_and_hooks_without_effect_do_not(bench):
    before = logits(bench.model)
    for variant in VARIANTS.values():
        with variant.enter(bench) as model:
            same = torch.equal(logits(model), before)
        if variant.tampered:
            assert not same, variant.name
        if variant.kind in ("untouched", "hooks without effect"):
            assert same, variant.name


@pytest.mark.parametrize(
    ("by_hooks", "in_weights"),
    [
        ("CAA, MLPs, 0.5, hooks", "CAA, MLPs, 0.5, biases"),
        ("direction erased 0.5 by hooks", "direction erased 0.5 in weights"),
    ],
)
def test_an_attack_in_the_weights_equals_the_attack_by_hooks(bench, by_hooks, in_weights):
    # Tied embeddings would be edited as the unembedding too, which hooks leave alone.
    module = bench.model.original_model
    module.lm_head.weight = torch.nn.Parameter(module.lm_head.weight.clone())
    try:
        with VARIANTS[by_hooks].enter(bench) as model:
            expected = logits(model)
        with VARIANTS[in_weights].enter(bench) as model:
            torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    finally:
        module.lm_head.weight = module.model.embed_tokens.weight


def test_the_weakened_adapter_lies_on_the_line_between_both_models(bench):
    own = weight_edits.weights_of(bench.model)["model.layers.0.mlp.up_proj.weight"].clone()
    other = bench.without_adapter["model.layers.0.mlp.up_proj.weight"]
    with VARIANTS["adapter at 0.25"].enter(bench) as model:
        weakened = weight_edits.weights_of(model)["model.layers.0.mlp.up_proj.weight"].clone()
    torch.testing.assert_close(weakened, 0.25 * own + 0.75 * other)


def test_random_neurons_are_never_attacked_neurons(bench):
    steered = set()
    with random_neurons("relp", 0.01, 0, "weights")(bench) as model:
        steered = scaled_neurons(model)
    assert not steered & bench.attacked


def test_an_interrupted_run_goes_on_and_ends_with_the_same_records(bench, tmp_path, monkeypatch):
    auditor = ByLogits(logits(bench.model))
    monkeypatch.setattr(
        "experiments.audit.running.refusal_log_odds",
        lambda model, prompts: refusal_log_odds(model, ["w5"], openings=["w6"]),
    )
    chosen = [VARIANTS[name] for name in ("untouched", "adapter at 0", "batches of 3")]

    class CutOff(ByLogits):
        def judge(self, seen, *, access):
            if len(journal()) == 5:
                raise KeyboardInterrupt
            return super().judge(seen, access=access)

    def journal():
        return Journal(tmp_path / "records.jsonl", "audit study", {})

    with pytest.raises(KeyboardInterrupt):
        run(chosen, bench, CutOff(auditor.reference), journal(), progress=False)
    assert len(journal()) == 5
    run(chosen, bench, auditor, journal(), progress=False)
    records = journal()
    assert len(records) == 12
    assert records["untouched | weights"]["score"] == 0
    assert records["adapter at 0 | activations"]["verdict"] == "tampered"
    weights, answers = (records[f"adapter at 0 | {access}"] for access in ("weights", "answers"))
    assert answers["score"] == 2 * weights["score"] > 0
    assert (answers["verdict"], answers["checks"]) == ("match", [])
    assert (
        records["adapter at 0 | behaviour"]["log_odds"]
        != records["untouched | behaviour"]["log_odds"]
    )


def test_a_failed_audit_is_kept_with_its_reason(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.audit.running.refusal_log_odds", lambda model, prompts: [1.0])

    class Refusing(ByLogits):
        def observe(self, *_, **__):
            raise cna_lens.ModelError("no plain weights")

    records = Journal(None, "audit study", {})
    run([VARIANTS["int8"]], bench, Refusing(0), records, progress=False)
    assert records["int8 | weights"]["error"] == "no plain weights"
    assert records["int8 | answers"]["error"] == "no plain weights"
    assert "score" not in records["int8 | weights"]


def test_each_variant_draws_its_own_samples(bench, monkeypatch):
    monkeypatch.setattr("experiments.audit.running.refusal_log_odds", lambda model, prompts: [1.0])
    seeds = []

    class Drawing(ByLogits):
        def observe(self, model, *, seed=None, **_):
            seeds.append(seed)
            return super().observe(model)

    chosen = [VARIANTS["untouched"], VARIANTS["int8"]]
    drawing = Drawing(logits(bench.model))
    run(chosen, bench, drawing, Journal(None, "audit study", {}), progress=False)
    run(chosen, bench, drawing, Journal(None, "audit study", {}), progress=False)
    drawn = [seed for seed in seeds if seed is not None]
    assert len(drawn) == 4
    assert drawn[0] != drawn[1]
    assert drawn[:2] == drawn[2:]


def test_variants_with_the_same_name_are_refused(bench):
    twice = [VARIANTS["int8"], replace(VARIANTS["untouched"], name="int8")]
    with pytest.raises(InputError, match="'int8'"):
        run(twice, bench, ByLogits(0), Journal(None, "audit study", {}), progress=False)


def audits(scores, tampered, kind, shift=0.0):
    return [
        Audit(f"{kind} {i}", kind, tampered, shift, score, "match", 1.0, {})
        for i, score in enumerate(scores)
    ]


def test_the_area_is_the_share_of_ordered_pairs_counted_one_by_one():
    rng = random.Random(0)
    tampered = [rng.randrange(8) for _ in range(20)]
    clean = [rng.randrange(6) for _ in range(30)]
    pairs = [(t > c) + 0.5 * (t == c) for t in tampered for c in clean]
    found = auroc_with_interval(tampered, clean)
    assert found.value == pytest.approx(sum(pairs) / len(pairs)) == auroc(tampered, clean)
    assert found.low < found.value < found.high
    tied = auroc_with_interval([1.0] * 5, [1.0] * 5)
    assert (tied.low, tied.value, tied.high) == (0.5, 0.5, 0.5)


def test_the_interval_of_the_area_has_about_its_nominal_coverage():
    rng = random.Random(1)
    truth, covered = 0.7602499, 0  # normal scores, one deviation apart: Phi(1 / sqrt(2))
    for seed in range(60):
        tampered = [rng.gauss(1, 1) for _ in range(40)]
        clean = [rng.gauss(0, 1) for _ in range(40)]
        found = auroc_with_interval(tampered, clean, seed=seed, n_resamples=300)
        covered += found.low <= truth <= found.high
    assert 51 <= covered <= 60


def test_at_most_one_in_a_hundred_of_the_calibration_half_is_above_the_threshold():
    scores = [float(i) for i in range(200)]
    random.Random(0).shuffle(scores)
    assert chosen_threshold(scores) == 197.0
    assert chosen_threshold([3.0, 1.0, 2.0]) == 3.0
    assert chosen_threshold([3.0, 1.0, 2.0, 0.0], at_most=0.25) == 2.0


def test_each_kind_is_halved_and_the_halves_have_the_same_size():
    kinds = {"a": [f"a{i}" for i in range(5)], "b": [f"b{i}" for i in range(3)], "c": ["c0"]}
    first, second = halved(kinds, seed=0)
    assert first | second == set().union(*kinds.values())
    assert not first & second
    assert abs(len(first) - len(second)) <= 1
    for names in kinds.values():
        assert abs(len(first & set(names)) - len(second & set(names))) <= 1
    assert halved(kinds, seed=0) == (first, second) != halved(kinds, seed=1)


def test_the_threshold_comes_from_one_half_and_the_counts_from_the_other():
    found = [
        *audits(range(10), False, "drift"),
        *audits([4.5, 20, 21, 22], True, "attack", shift=3.0),
    ]
    kinds = {"drift": [a.name for a in found[:10]], "attack": [a.name for a in found[10:]]}
    seed = next(seed for seed in range(20) if "drift 9" in halved(kinds, seed)[1])
    calibration, test = halved(kinds, seed)
    highest = max(a.score for a in found[:10] if a.name in calibration)
    result = level(found, "weights", seed)
    assert result.threshold == highest < 9
    above = [a.name for a in found[:10] if a.name in test and a.score > highest]
    assert result.alarmed == tuple(above)
    assert result.false_alarms.n == 5
    missed = [a.name for a in found[10:] if a.name in test and a.score <= highest]
    assert result.missed == tuple(missed)
    rows = {row.tampered: row for row in result.rows}
    assert rows["all"].auroc.value == pytest.approx((5 + 30) / 40)
    assert rows["all"].caught.n == 2


def test_attacks_within_the_behaviours_own_noise_form_their_own_group():
    noise = [
        Audit("precision 0", "precision", False, -0.4, 0.0, "match", 1.0, {}),
        Audit("noise 0", "noise", False, 0.2, 0.0, "match", 1.0, {}),
    ]
    found = [
        *noise,
        *audits([0.0, 0.0], False, "fine-tune", shift=9.0),
        *audits([0.0, 0.0], True, "weak", shift=0.3),
        *audits([5.0, 5.0], True, "strong", shift=0.5),
    ]
    result = level(found, "weights", 0)
    rows = {row.tampered: row.auroc.value for row in result.rows}
    assert result.noise == 0.4
    assert (rows["behaviour changed"], rows["behaviour unchanged"]) == (1.0, 0.5)


def test_each_check_has_a_row_and_an_audit_without_score_is_named():
    def checked(name, tampered, statistic):
        check = {"gap": {"name": "gap", "statistic": statistic}}
        return Audit(name, "kind", tampered, 0.0, 0.0, "match", 1.0, check)

    found = [
        *(checked(f"t{i}", True, 2.0) for i in range(2)),
        *(checked(f"b{i}", False, 1.0) for i in range(2)),
        Audit("int8", "int8", False, 0.0, None, "error: no weights", 1.0, {}),
    ]
    result = level(found, "activations", 0)
    areas = {row.signal: row.auroc.value for row in result.rows if row.tampered == "all"}
    assert areas == {"score": 0.5, "gap": 1.0}
    assert result.failed == {"int8": "error: no weights"}


def test_records_are_analysed_for_each_access(bench):
    def record(name, tampered, access, score):
        return {
            "name": name,
            "kind": "attack" if tampered else "untouched",
            "tampered": tampered,
            "access": access,
            "verdict": "match",
            "score": score,
            "checks": [],
            "seconds": 1.0,
        }

    records = {}
    for i, (name, is_tampered) in enumerate(
        [("untouched", False), ("b", False), ("t", True), ("u", True)]
    ):
        for access in ("weights", "activations"):
            score = float(i) if access == "weights" else -float(i)
            records[f"{name} | {access}"] = record(name, is_tampered, access, score)
        records[f"{name} | behaviour"] = {"name": name, "log_odds": [4.0 - i, 6.0 - i]}
    weights, activations = analysed(records)
    assert weights.rows[0].auroc.value == 1.0
    assert activations.rows[0].auroc.value == 0.0
    answers = {
        f"{each['name']} | answers": {**each, "access": "answers"}
        for each in records.values()
        if each.get("access") == "weights"
    }
    assert [each.access for each in analysed(records | answers)][2:] == ["answers"]
    del records["untouched | behaviour"]
    with pytest.raises(InputError, match="reference itself"):
        analysed(records)


def test_bisection_finds_the_largest_strength_that_is_not_seen():
    for limit in (0.0, 0.1, 0.55, 0.99):
        found = largest_below(lambda strength, limit=limit: strength > limit, steps=10)
        assert limit - 2**-10 <= found <= limit
    assert largest_below(lambda strength: False) == 1.0


def test_an_adversary_stays_at_the_threshold_and_its_effect_is_measured(bench, monkeypatch):
    monkeypatch.setattr("experiments.audit.evasion.refusal_log_odds", lambda model, prompts: [2.0])
    auditor = ByLogits(logits(bench.model))
    attack = Attack("adapter", weakened_adapter)
    journal = Journal(None, "audit study", {})
    (found,) = evade([attack], bench, auditor, "weights", 0.3, journal)
    assert 0 < found["strength"] < 1
    assert (
        max(s for s in found["scores"].values() if s <= 0.3)
        == found["scores"][f"{found['strength']:g}"]
    )
    assert found["log_odds"] == [2.0]


def test_an_adversary_is_audited_at_the_given_access(bench, monkeypatch):
    monkeypatch.setattr("experiments.audit.evasion.refusal_log_odds", lambda model, prompts: [2.0])
    auditor = ByLogits(logits(bench.model))
    strengths = []
    # Answers score twice as much: 1.0 is their equivalent of 0.5 for the weights.
    for access, threshold in (("weights", 0.5), ("answers", 1.0), ("answers", 0.5)):
        journal = Journal(None, "audit study", {})
        attack = Attack("adapter", weakened_adapter)
        (found,) = evade([attack], bench, auditor, access, threshold, journal)
        strengths.append(found["strength"])
    assert strengths[0] == strengths[1] > strengths[2]


def test_an_attack_that_cannot_be_audited_is_named_with_the_reason(bench):
    class Refusing(ByLogits):
        def observe(self, *_, **__):
            raise cna_lens.ModelError("no plain weights")

    attack = Attack("adapter", weakened_adapter)
    with pytest.raises(InputError, match="adapter at 1 cannot be audited: no plain weights"):
        evade([attack], bench, Refusing(0), "weights", 0.3, Journal(None, "audit study", {}))


def test_a_reference_taken_of_the_tampered_model_itself_matches(bench):
    journal = Journal(None, "audit study", {})
    chosen = [VARIANTS["adapter at 0"]]

    def take(model):
        return ByLogits(logits(model))

    (row,) = spoofed(chosen, bench, take, journal)
    assert (row["name"], row["verdict"], row["score"]) == ("adapter at 0", "match", 0.0)
    assert spoofed(chosen, bench, None, journal) == [row]


def test_an_adversary_who_knows_the_watched_neurons_spares_them(bench, monkeypatch):
    monkeypatch.setattr("experiments.audit.evasion.STRONGEST", 4 / (2 * tiny.WIDTH))
    whole = bench.circuit("relp", 4 / (2 * tiny.WIDTH))
    watched = replace(whole, neurons=whole.neurons[:2], scores=whole.scores[:2])
    by_weights, by_hooks = (each for each in attacks(watched) if "without" in each.name)
    with by_weights.at(1.0)(bench) as model:
        assert scaled_neurons(model) == set(whole) - set(watched)
        expected = logits(model)
    with by_hooks.at(1.0)(bench) as model:
        assert scaled_neurons(model) == set()
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


def test_requests_are_counted_to_the_alarm_and_the_reference_raises_none(bench, monkeypatch):
    asked = [f"w{3 + i % 7} w{11 + i % 13}" for i in range(160)]
    monkeypatch.setattr(
        "experiments.audit.watching.shuffled_requests",
        lambda seed: (asked[:100], asked[100:]),
    )
    circuit = bench.circuit("contrast", 1.0)
    silent = steered(lambda bench: cna_lens.steer(bench.model, circuit, 0.0, via="hooks"))
    changed = Variant("silent", "neurons", True, silent)
    rows = watched([VARIANTS["untouched"], changed], bench, circuit)
    assert [row["alarm_after"] is None for row in rows] == [True, False]
    assert rows[1]["alarm_after"] < rows[1]["n_requests"] == 60
    assert audit.hooks(bench.model) == ()


def test_requests_of_a_watch_are_distinct_and_ordered_by_seed():
    trusted, later = shuffled_requests(0)
    assert len(trusted) == 200
    assert len({*trusted, *later}) == len(trusted) + len(later)
    assert (trusted, later) == shuffled_requests(0) != shuffled_requests(1)
