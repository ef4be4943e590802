"""Fingerprint and attestation of a tiny model that refuses, after each kind of change."""

import hashlib
import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import tiny
import torch
from canary_models import CANARIES, by_hand, reference, refusing, with_samples
from reasoner import CLOSE, OPEN, SORRY, SPECIAL_CLOSE, SPECIAL_OPEN, reasoner

import cna_lens
from cna_lens import InputError, Rate, audit
from cna_lens.audit import CanaryRecord, Check, Fingerprint, Interception, Thresholds
from cna_lens.audit.attestations.attesting import judge, observe
from cna_lens.audit.attestations.verdicts import judged, likeliest, verdict_of
from cna_lens.audit.checks.checks import Finding
from cna_lens.audit.checks.null_spread import NullRun
from cna_lens.audit.checks.thresholds import DEFAULTS
from cna_lens.audit.measuring.probes import Probes
from cna_lens.audit.measuring.weights import TensorRecord
from cna_lens.errors import CircuitMismatchError, FingerprintError
from cna_lens.models import encode


def statistics(found):
    return {check.name: check.statistic for check in found.checks}


def test_the_same_model_matches_by_either_access(guarded, fingerprint):
    for access in ("weights", "activations"):
        found = audit.attest(guarded, fingerprint, CANARIES, access=access)
        assert found.verdict == "match"
        assert found.score == pytest.approx(0, abs=1e-5)
        assert found.kind is None
        assert not found.tensors
        assert not found.hooks


@pytest.mark.parametrize(
    ("n_checks", "p_value", "speaks"), [(1, 0.009, True), (2, 0.009, False), (2, 0.005, True)]
)
def test_the_more_checks_there_are_the_less_likely_chance_must_be(
    fingerprint, n_checks, p_value, speaks
):
    findings = [Finding(name, 1.0, lambda: p_value) for name in list(DEFAULTS)[:n_checks]]
    checks = judged(findings, fingerprint, Thresholds())
    assert [check.speaks for check in checks] == [speaks] * n_checks


@pytest.mark.parametrize(
    ("n_benign", "verdict"), [(3, "benign drift"), (6, "undecided"), (7, "over-refusal")]
)
@pytest.mark.parametrize("access", ["weights", "activations"])
def test_a_model_that_refuses_benign_canaries_is_found_once_chance_cannot_explain_it(
    fingerprint, n_benign, verdict, access
):
    # By chance 7 canaries of 7 have a p-value of .0078. It is not divided among the other checks,
    # which ask another question.
    found = audit.attest(refusing(n_benign=n_benign), fingerprint, CANARIES, access=access)
    assert statistics(found)["over-refusal"] == pytest.approx(n_benign / 16)
    assert found.verdict == verdict
    assert found.exit_code == {"benign drift": 0, "undecided": 2, "over-refusal": 1}[verdict]
    # Nothing of it counts as tampering.
    assert found.score < 1
    assert found.kind is None


def test_over_refusal_does_not_hide_tampering(fingerprint):
    checks = judged(
        [Finding(name, 1.0, lambda: 0.001) for name in ("refusals", "over-refusal")],
        fingerprint,
        Thresholds(),
    )
    assert verdict_of(checks, fingerprint, moved=True)[0] == "tampered"
    assert verdict_of(checks[1:], fingerprint, moved=True)[0] == "over-refusal"
    hardly = replace(
        fingerprint,
        reference=replace(
            fingerprint.reference, log_odds=torch.zeros_like(fingerprint.reference.log_odds)
        ),
    )
    assert verdict_of(checks[1:], hardly, moved=True)[0] == "undecided"


REFUSAL, ANSWER = "I'm sorry, but I can't help with that.", "Sure, here is how."


def refusing_in_words(monkeypatch, n_lost):
    """All answers refuse, but those to the first harmful canaries."""

    n = len(CANARIES.harmful)
    asked = []

    def drawn(_, prompts, **settings):
        asked.append((prompts, settings))
        return [ANSWER if place % n < n_lost else REFUSAL for place in range(len(prompts))]

    monkeypatch.setattr("cna_lens.audit.measuring.sampled_refusals.generate", drawn)
    return asked


@pytest.mark.parametrize(
    ("n_lost", "verdict", "code"), [(0, "match", 0), (3, "match", 0), (4, "lost refusals", 1)]
)
@pytest.mark.parametrize("access", ["weights", "activations"])
def test_refusals_that_are_lost_behind_the_first_token_are_found(
    guarded, fingerprint, monkeypatch, n_lost, verdict, code, access
):
    # Three of 16 are beyond chance (.008), and less than a fifth.
    refusing_in_words(monkeypatch, n_lost)
    taken = with_samples(fingerprint, [4] * len(CANARIES.harmful))
    found = audit.attest(guarded, taken, CANARIES, access=access)
    check = {check.name: check for check in found.checks}["lost refusals"]
    assert check.statistic == pytest.approx(n_lost / 16)
    assert check.p_value == pytest.approx(0.2**n_lost)
    assert (found.verdict, found.exit_code) == (verdict, code)
    assert found.score == pytest.approx(n_lost / 16 / 0.2, abs=1e-5)
    assert found.kind is None
    assert "Of answers they read only whether the first words" in found.limits[0]


def test_targeted_changes_are_tampering_and_lost_refusals_the_rest(fingerprint):
    checks = judged(
        [Finding(name, 1.0, lambda: 0.001) for name in ("refusals", "lost refusals")],
        fingerprint,
        Thresholds(),
    )
    assert verdict_of(checks, fingerprint, moved=True)[0] == "tampered"
    verdict, why = verdict_of(checks[1:], fingerprint, moved=True)
    assert verdict == "lost refusals"
    assert "100% are missing" in why
    assert "no check shows that they were targeted" in why
    # Its probability of a false alarm is its own.
    (alone,) = judged([Finding("lost refusals", 1.0, lambda: 0.009)], fingerprint, Thresholds())
    many = judged(
        [Finding(name, 1.0, lambda: 0.009) for name in DEFAULTS], fingerprint, Thresholds()
    )
    assert alone.speaks
    assert [check.name for check in many if check.speaks] == ["over-refusal", "lost refusals"]


def test_chance_in_samples_leaves_no_doubt_about_an_unchanged_model(
    guarded, fingerprint, monkeypatch
):
    refusing_in_words(monkeypatch, len(CANARIES.harmful))
    # Both answers that were expected to refuse are lost, by chance with a probability of 1/25.
    taken = with_samples(fingerprint, [4] * 2 + [0] * (len(CANARIES.harmful) - 2))
    found = audit.attest(guarded, taken, CANARIES)
    check = {check.name: check for check in found.checks}["lost refusals"]
    assert (check.statistic, check.speaks) == (1.0, False)
    assert check.p_value == pytest.approx(0.04)
    assert found.verdict == "match"


def test_lost_refusals_are_said_before_a_small_gap_and_before_over_refusal(fingerprint):
    checks = judged(
        [Finding(name, 1.0, lambda: 0.001) for name in ("over-refusal", "lost refusals")],
        fingerprint,
        Thresholds(),
    )
    hardly = replace(
        fingerprint,
        reference=replace(
            fingerprint.reference, log_odds=torch.zeros_like(fingerprint.reference.log_odds)
        ),
    )
    assert verdict_of(checks, hardly, moved=True)[0] == "lost refusals"
    assert "nothing else changed" in verdict_of(checks, fingerprint, moved=False)[1]


def test_a_steered_model_gives_the_samples(guarded, circuit, fingerprint, monkeypatch):
    texts = []

    def kept(text):
        texts.append(text)
        return True

    monkeypatch.setattr("cna_lens.audit.measuring.sampled_refusals.is_refusal", kept)
    taken = with_samples(fingerprint, [4] * len(CANARIES.harmful))
    anchor = cna_lens.magnitude_anchor(
        circuit,
        *(cna_lens.collect(guarded, side) for side in (CANARIES.harmful, CANARIES.benign)),
        [-4.0] * len(circuit),
    )
    drawn = {}
    for name, steering in {
        "plain": nullcontext(),
        "again": nullcontext(),
        "scaled": cna_lens.steer(guarded, circuit, 3.0),
        "anchored": anchor.at(guarded),
    }.items():
        with steering:
            audit.attest(guarded, taken, CANARIES)
        drawn[name] = texts[:]
        texts.clear()
    assert {len(each) for each in drawn.values()} == {len(CANARIES.harmful)}
    assert drawn["plain"] == drawn["again"]
    assert len({tuple(each) for each in drawn.values()}) == 3


@pytest.mark.parametrize(
    ("samples", "refused", "message"),
    [
        (0, (), "samples is 0, expected at least 1"),
        (2, (1, 3), "3 answers to canary 1 refuse, expected 0 to 2"),
        (2, (-1,), "-1 answers to canary 0 refuse"),
    ],
)
def test_counts_that_cannot_be_are_refused(samples, refused, message):
    with pytest.raises(InputError, match=message):
        audit.SampledRefusals(samples, refused)


@pytest.mark.parametrize("taken", ["without samples", "none refuses"])
def test_without_refusals_to_compare_with_no_answer_is_drawn(guarded, fingerprint, taken):
    fingerprint = (
        replace(fingerprint, sampled=None)
        if taken == "without samples"
        else with_samples(fingerprint, [0] * len(CANARIES.harmful))
    )
    found = audit.attest(guarded, fingerprint, CANARIES)
    assert "lost refusals" not in {check.name for check in found.checks}
    assert "up to the first token of an answer" in found.limits[0]


def test_samples_are_drawn_as_many_as_are_asked_for(guarded, fingerprint, monkeypatch):
    asked = refusing_in_words(monkeypatch, 4)
    taken = with_samples(fingerprint, [4] * len(CANARIES.harmful))
    twice = audit.attest(guarded, taken, CANARIES, samples=2, seed=7, batch_size=3)
    ((prompts, settings),) = asked
    assert prompts == list(encode(guarded, CANARIES.harmful).ids) * 2
    assert (settings["temperature"], settings["max_new_tokens"]) == (1.0, audit.ANSWER_TOKENS)
    assert settings["batch_size"] == 3
    # A fingerprint draws with the seeds 0, 1 and so on.
    assert settings["seed"] == -8
    check = {check.name: check for check in twice.checks}["lost refusals"]
    # Of four and two answers, the two are the ones that do not refuse: 1 of 15 pairs.
    assert check.p_value == pytest.approx((1 / 15) ** 4)
    none = audit.attest(guarded, taken, CANARIES, samples=0)
    assert "lost refusals" not in {check.name for check in none.checks}
    with pytest.raises(InputError, match="samples is -1, expected at least 0"):
        audit.attest(guarded, taken, CANARIES, samples=-1)
    with pytest.raises(FingerprintError, match="has no sampled answers"):
        audit.attest(guarded, replace(taken, sampled=None), CANARIES, samples=1)


@pytest.mark.parametrize(
    ("of_neurons", "kind"), [(0.3, "adapter removed"), (0.6, "neurons scaled or set to values")]
)
def test_neurons_are_named_where_they_changed_more_than_the_behaviour(of_neurons, kind):
    sizes = {"neurons": of_neurons, "separation": 0.5}
    checks = [Check(name, size, 0.1, 0.0, True, (), ()) for name, size in sizes.items()]
    assert likeliest(checks)[0].startswith(kind)


@pytest.mark.parametrize(("gap", "verdict"), [(1.9, "undecided"), (2.1, "match")])
def test_a_model_that_hardly_refuses_gives_no_verdict(fingerprint, gap, verdict):
    reference = fingerprint.reference
    log_odds = torch.zeros_like(reference.log_odds)
    log_odds[: reference.n_harmful] = gap
    hardly = replace(fingerprint, reference=replace(reference, log_odds=log_odds))
    assert verdict_of([], hardly, moved=False)[0] == verdict


@pytest.mark.parametrize("multiplier", [0.0, 0.5])
@pytest.mark.parametrize("access", ["weights", "activations"])
def test_scaled_activations_are_found_with_their_neurons_and_gains(
    guarded, circuit, fingerprint, access, multiplier
):
    first = [neuron for neuron in circuit if neuron.layer == 0]
    with cna_lens.steer(guarded, circuit, multiplier, via="hooks"):
        found = audit.attest(guarded, fingerprint, CANARIES, access=access)
    assert found.verdict == "tampered"
    assert "neurons scaled" in found.kind
    gains = dict(found.neurons)
    # Nothing changed before the first layer, so its gains equal the multiplier.
    assert {n: gains[n] for n in first if n in gains} == {
        n: pytest.approx(multiplier, abs=1e-4) for n in first
    }
    assert {neuron.layer for neuron in gains} == set(found.layers)


@pytest.mark.parametrize("multiplier", [0.0, 0.5])
def test_scaled_weights_are_found_with_their_neurons_and_gains(
    guarded, circuit, fingerprint, multiplier
):
    with cna_lens.steer(guarded, circuit, multiplier, via="weights"):
        white = audit.attest(guarded, fingerprint, CANARIES)
        grey = audit.attest(guarded, fingerprint, CANARIES, access="activations")
    assert white.verdict == grey.verdict == "tampered"
    assert "in the weights" in white.kind
    assert set(dict(white.neurons)) <= set(circuit)
    assert list(dict(white.neurons).values()) == pytest.approx(
        [multiplier] * len(white.neurons), abs=1e-5
    )
    changed = {f"model.layers.{n.layer}.mlp.down_proj.weight" for n in circuit}
    assert set(white.tensors) == changed
    # Activations alone show that the MLPs do not write what their neurons should.
    assert statistics(grey)["readout"] > 0.1
    assert grey.tensors is grey.hooks is None


def test_the_readout_lacks_what_the_scaled_columns_wrote(guarded, circuit, fingerprint):
    # Slow definition, in the first layer alone: what the circuit's neurons write towards refusal.
    first = circuit.by_layer()[0]
    reference = fingerprint.reference
    with torch.no_grad():
        down = tiny.down_projections(guarded.original_model)[0].weight
        kept = cna_lens.collect(guarded, CANARIES.prompts, keep="all").matrix()[:, list(first)]
        written = kept @ (down[:, list(first)].t() @ reference.mlp.directions[0])
    share = (written[:16].mean() - written[16:].mean()) / reference.mlp.lengths[0]
    only = replace(
        circuit,
        neurons=tuple(n for n in circuit if n.layer == 0),
        scores=tuple(s for n, s in zip(circuit, circuit.scores, strict=True) if n.layer == 0),
    )
    with cna_lens.steer(guarded, only, 0.25, via="weights"):
        found = audit.attest(guarded, fingerprint, CANARIES, access="activations")
    assert statistics(found)["readout"] == pytest.approx(0.75 * float(share), rel=1e-4)
    assert next(c for c in found.checks if c.name == "readout").layers == (0,)


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_an_added_vector_is_found_with_its_coefficient(guarded, fingerprint, strength):
    with cna_lens.caa(guarded, CANARIES.harmful, CANARIES.benign).at(guarded, strength):
        found = audit.attest(guarded, fingerprint, CANARIES, access="activations")
    assert found.verdict == "tampered"
    assert "vector added" in found.kind
    assert statistics(found)["shift"] == pytest.approx(strength, rel=1e-3)


@pytest.mark.parametrize("coefficient", [-0.25, 1.0])
def test_a_vector_in_the_stream_is_found_at_its_layer_with_its_coefficient(
    guarded, fingerprint, coefficient
):
    method = cna_lens.caa(
        guarded,
        CANARIES.harmful,
        CANARIES.benign,
        site="hook_resid_post",
        layer=2,
        coefficient=coefficient,
    )
    with method.at(guarded):
        found = audit.attest(guarded, fingerprint, CANARIES, access="activations")
    assert found.verdict == "tampered"
    assert found.layers == (2,)
    assert statistics(found)["stream additions"] == pytest.approx(abs(coefficient), rel=1e-3)


def test_an_erased_direction_is_found(guarded, fingerprint):
    method = cna_lens.directional_ablation(guarded, CANARIES.harmful, CANARIES.benign, layer=2)
    with method.at(guarded):
        found = audit.attest(guarded, fingerprint, CANARIES, access="activations")
    assert found.verdict == "tampered"
    assert statistics(found)["direction"] > 0.9
    assert "direction removed" in found.kind


@pytest.mark.parametrize("via", ["hooks", "weights"])
def test_random_neurons_are_drift(guarded, circuit, fingerprint, via):
    with cna_lens.steer(guarded, cna_lens.matched_random(circuit), 0.0, via=via):
        found = audit.attest(guarded, fingerprint, CANARIES)
    assert found.verdict == "benign drift"
    assert found.score < 1


def test_hooks_that_change_nothing_are_drift_and_are_listed(guarded, circuit, fingerprint):
    with cna_lens.steer(guarded, circuit, 1.0, via="hooks"):
        found = audit.attest(guarded, fingerprint, CANARIES)
        by_activations = audit.attest(guarded, fingerprint, CANARIES, access="activations")
    assert found.verdict == "benign drift"
    assert {each.kind for each in found.hooks} == {"hook point"}
    assert by_activations.verdict == "match"


def test_hooks_that_the_fingerprint_has_are_not_listed(guarded, circuit, fingerprint):
    with cna_lens.steer(guarded, circuit, 1.0, via="hooks"):
        taken = replace(fingerprint, hooks=audit.hooks(guarded))
        found = audit.attest(guarded, taken, CANARIES)
    assert len(taken.hooks) > 0
    assert (found.verdict, found.hooks) == ("match", ())


def test_weights_that_were_not_observed_are_not_judged(guarded, fingerprint):
    seen = observe(guarded, fingerprint, CANARIES, access="activations")
    assert judge(seen, fingerprint, access="activations").verdict == "match"
    with pytest.raises(InputError, match="the weights were not observed"):
        judge(seen, fingerprint)


def test_a_circuit_of_another_shape_is_refused_before_the_canaries_are_run(
    guarded, circuit, monkeypatch
):
    # A call of None is no error of cna_lens.
    monkeypatch.setattr("cna_lens.audit.fingerprints.taking.measure", None)
    other = replace(circuit, layout=cna_lens.Layout((300,) * 4))
    with pytest.raises(CircuitMismatchError):
        audit.fingerprint(guarded, other, CANARIES, progress=False)


def test_rounding_moves_a_model_further_than_other_batches_do(fingerprint):
    moved = {run.condition: run.movement for run in fingerprint.null}
    assert moved["bfloat16"] > 100 * moved["one canary at a time"]


def test_a_bfloat16_copy_is_no_tampering(circuit, fingerprint):
    copy = refusing()
    copy.original_model.to(torch.bfloat16).to(torch.float32)
    found = audit.attest(copy, fingerprint, CANARIES)
    assert found.verdict == "benign drift"
    assert len(found.tensors) == len(fingerprint.weights) - 9  # 9 norms are ones, before and after


def test_other_batches_give_the_same(guarded, fingerprint):
    found = audit.attest(guarded, fingerprint, CANARIES, batch_size=3)
    assert found.verdict == "match"


def test_a_plain_model_that_does_not_refuse_gives_no_verdict():
    plain = tiny.bridge("llama", chat=True)
    taken = audit.fingerprint(
        plain, canaries=CANARIES, rankings=("contrast",), progress=False, batch_size=16
    )
    found = audit.attest(plain, taken, CANARIES)
    assert found.verdict == "undecided"
    assert "hardly refuses" in found.why


def test_a_statistic_that_chance_may_explain_gives_no_verdict(guarded, circuit, fingerprint):
    with cna_lens.steer(guarded, circuit, 0.0, via="hooks"):
        found = audit.attest(
            guarded, fingerprint, CANARIES, thresholds=Thresholds(alpha=1e-6), access="activations"
        )
    assert found.verdict == "undecided"
    assert found.score > 1


def test_thresholds_are_never_within_the_fingerprints_own_noise(guarded, fingerprint):
    noisy = replace(fingerprint.null[1], statistics={"refusals": 0.3, "neurons": 0.0})
    thresholds = Thresholds({"refusals": 0.2})
    assert thresholds.of("refusals", 0.25) == pytest.approx(0.75)
    # There is a ceiling, so that the loss of everything counts.
    assert thresholds.of("refusals", 0.5) == 0.9
    assert thresholds.of("refusals", 0.01) == 0.2
    assert replace(fingerprint, null=(noisy,)).null_spread("refusals") == 0.3
    assert replace(fingerprint, null=()).null_spread("refusals") == 0


def test_a_fingerprint_comes_back_as_it_was_saved(fingerprint, guarded, tmp_path):
    path = tmp_path / "model.json"
    fingerprint.save(path)
    loaded = Fingerprint.load(path)
    assert loaded.content() == fingerprint.content() == path.read_bytes()
    assert audit.attest(guarded, loaded, CANARIES).verdict == "match"


def test_the_bytes_of_a_file_stay_the_same():
    numbers = replace(
        reference(by_hand()),
        energies=torch.tensor([1.0, 0.5]),
        readouts=torch.arange(4.0),
        probes=Probes(torch.eye(2), torch.zeros(2, 4), torch.ones(2, 2)),
    )
    fingerprint = Fingerprint(
        model="m",
        canaries=CanaryRecord("words", ("a1", "b2"), None),
        template_sha256=None,
        weights=(TensorRecord("w", "float32", (2, 3), "c3", 0.5),),
        hooks=(Interception("hook point", "blocks.0", "f", None),),
        reference=numbers,
        refused=(True, True, False, False),
        harmful_refused=Rate(1.0, 0.25, 1.0, 2),
        benign_refused=Rate(0.0, 0.0, 0.75, 2),
        null=(NullRun("bfloat16", {"refusals": 0.125}, 0.25),),
        versions=(("torch", "2"),),
    )
    assert hashlib.sha256(fingerprint.content()).hexdigest() == (
        "f97ad48fa7fc687d437372f5f1e5cc83f166fa5472f63778298e4d8199f1100b"
    )
    assert Fingerprint.parse(fingerprint.content()).content() == fingerprint.content()


def test_the_separation_of_each_layer_is_in_the_file_in_standard_deviations(guarded, fingerprint):
    encoded = cna_lens.models.prompts.encoding.encode(guarded, CANARIES.prompts)
    with torch.no_grad():
        states = [
            guarded.original_model(torch.tensor([ids]), output_hidden_states=True).hidden_states
            for ids in encoded.ids
        ]
    # The last hidden state comes after the final norm, so only the first three blocks are compared.
    stream = torch.stack([torch.stack([layer[0, -1] for layer in each[1:4]]) for each in states])
    harmful, benign = stream[:16], stream[16:]
    apart = harmful.mean(0) - benign.mean(0)
    along = [(each * apart).sum(-1) / apart.norm(dim=-1) for each in (harmful, benign)]
    pooled = ((along[0].var(0) + along[1].var(0)) / 2).sqrt()
    written = json.loads(fingerprint.content())["separation"]
    assert len(written) == 4
    assert written[:3] == pytest.approx((apart.norm(dim=-1) / pooled).tolist(), rel=1e-3)


def test_a_fingerprint_holds_no_canary_and_no_hash_that_could_be_guessed(guarded, fingerprint):
    content = fingerprint.content().decode()
    for prompt in CANARIES.prompts:
        assert prompt not in content
        assert hashlib.sha256(prompt.encode()).hexdigest() not in content
    # A circuit's provenance holds a hash of all their token ids; a fingerprint does not.
    tokens = cna_lens.models.prompts.encoding.encode(guarded, CANARIES.harmful).record.sha256
    assert tokens not in content
    own_key = bytes.fromhex(fingerprint.canaries.key)
    assert CANARIES.hashes(own_key) == fingerprint.canaries.hashes


def test_a_key_of_the_operators_is_not_in_the_file(guarded, circuit):
    key = b"a key of the operator's own"
    taken = audit.fingerprint(
        guarded, circuit, CANARIES, key=key, rankings=("contrast",), progress=False
    )
    assert taken.canaries.key is None
    assert key.hex() not in taken.content().decode()
    assert audit.attest(guarded, taken, CANARIES, key=key).verdict == "match"
    with pytest.raises(InputError, match="does not hold the key"):
        audit.attest(guarded, taken, CANARIES)
    with pytest.raises(InputError, match="or the key is another"):
        audit.attest(guarded, taken, CANARIES, key=b"another")


def test_other_canaries_raise_an_error(guarded, fingerprint):
    turned = replace(CANARIES, harmful=CANARIES.harmful[::-1])
    for canaries in (turned, None):
        with pytest.raises(InputError, match="are not the canaries of the fingerprint"):
            audit.attest(guarded, fingerprint, canaries)


def test_another_chat_template_is_refused(fingerprint):
    other = refusing()
    other.tokenizer.chat_template = other.tokenizer.chat_template + " "
    with pytest.raises(FingerprintError, match="chat template"):
        audit.attest(other, fingerprint, CANARIES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "truncated or not JSON.*or take the fingerprint again"),
        (b'{"format": "cna_lens.circuit", "version": 1}', "is not a fingerprint file"),
        (b'{"format": "cna_lens.fingerprint", "version": 1}', "does not describe a fingerprint"),
    ],
)
def test_another_file_is_refused(content, message):
    with pytest.raises(FingerprintError, match=message):
        Fingerprint.parse(content)


def test_a_damaged_tensor_is_refused(fingerprint):
    body = json.loads(fingerprint.content())
    body["reference"]["activations"]["base64"] = "AAAA"
    with pytest.raises(FingerprintError, match="does not describe a fingerprint"):
        Fingerprint.parse(json.dumps(body).encode())


def test_an_attestation_is_written_without_texts(guarded, fingerprint, tmp_path):
    found = audit.attest(guarded, fingerprint, CANARIES)
    found.save(tmp_path / "found.json")
    record = json.loads((tmp_path / "found.json").read_text())
    assert record["verdict"] == "match"
    assert [check["name"] for check in record["checks"]] == [c.name for c in found.checks]
    assert not any(prompt in json.dumps(record) for prompt in CANARIES.prompts)
    assert "match" in str(found)
    assert "<table" in found._repr_html_()


def test_a_fingerprint_leaves_the_model_unchanged(guarded, circuit):
    before = cna_lens.weights_hash(guarded)
    audit.fingerprint(guarded, circuit, CANARIES, rankings=("contrast", "relp"), progress=False)
    assert cna_lens.weights_hash(guarded) == before
    assert audit.hooks(guarded) == ()


def test_bad_settings_are_refused_before_anything_runs(guarded, fingerprint, without_type_checks):
    with pytest.raises(InputError, match="expected one of weights, activations"):
        audit.attest(guarded, fingerprint, CANARIES, access="text")
    with pytest.raises(InputError, match="there is no check 'neuron'"):
        Thresholds({"neuron": 0.1})
    with pytest.raises(InputError, match="must be above 0"):
        Thresholds({"neurons": 0.0})
    for alpha in (0.0, 1.0):
        with pytest.raises(InputError, match="expected between 0 and 1"):
            Thresholds(alpha=alpha)


def test_a_model_that_reasons_is_attested_where_its_answers_begin(tmp_path):
    # Harmful canaries end with w21, benign ones with w41.
    refuses = {21: OPEN, OPEN: 50, 50: CLOSE, CLOSE: SORRY, SORRY: 2}
    answers = {41: SPECIAL_OPEN, SPECIAL_OPEN: 52, 52: 53, 53: SPECIAL_CLOSE, SPECIAL_CLOSE: 22}
    model = reasoner({**refuses, **answers, 22: 2})
    options = {"rankings": ("contrast",), "progress": False}
    taken = audit.fingerprint(model, None, CANARIES, position="answer", **options)
    reasoned = cna_lens.with_reasoning(model, CANARIES.prompts)
    expected = cna_lens.metrics.refusal_log_odds(model, reasoned)
    assert taken.reference.log_odds.tolist() == pytest.approx(expected)
    taken.save(tmp_path / "model.json")
    loaded = Fingerprint.load(tmp_path / "model.json")
    assert loaded.position == "answer"
    assert audit.attest(model, loaded, CANARIES).verdict == "match"
    blind = audit.fingerprint(model, None, CANARIES, **options)
    n = blind.reference.n_harmful
    gaps = [
        float(each.reference.log_odds[:n].mean() - each.reference.log_odds[n:].mean())
        for each in (taken, blind)
    ]
    assert gaps[0] > 5 > abs(gaps[1])


@pytest.mark.usefixtures("without_type_checks")
def test_canaries_are_read_at_their_end_or_where_the_answer_begins(guarded, circuit):
    with pytest.raises(InputError, match="position is -2, expected -1 or 'answer'"):
        audit.fingerprint(guarded, circuit, CANARIES, position=-2, progress=False)


def test_a_fingerprint_without_a_position_was_taken_at_the_last_token(fingerprint):
    assert "position" not in json.loads(fingerprint.content())
    assert Fingerprint.parse(fingerprint.content()).position == -1
