"""Is it the model? A local server answers sensitive canaries; only what changed is counted."""

import json
from dataclasses import replace

import pytest
import tiny
import torch
from judge_server import HANGS, Reply, completion, warm_up

from cna_lens import InputError, audit
from cna_lens.audit import attest_answers, attest_identity, judge_identity
from cna_lens.errors import FingerprintError
from cna_lens.metrics import Endpoint
from cna_lens.metrics.endpoint.replies import Missing
from cna_lens.models import generate
from cna_lens.models.inside.weights import named_weights

POOL = [f"w{i} w{j} w{k}" for i in range(5, 12) for j in range(20, 25) for k in (30, 40)]
N_TOKENS, N = 4, 40


@pytest.fixture(scope="module")
def served():
    """A model of this file's own, whose weights tests may change for a while."""
    return tiny.bridge("llama", chat=True)


@pytest.fixture(scope="module")
def canaries(served):
    return audit.sensitive_canaries(served, POOL, N, n_tokens=N_TOKENS)


@pytest.fixture(scope="module")
def genuine(served, canaries):
    """The genuine answer to each canary."""
    answers = generate(served, canaries.prompts, max_new_tokens=N_TOKENS)
    return dict(zip(canaries.prompts, answers, strict=True))


@pytest.fixture
def server(judge_server):
    """An endpoint whose script is a function of the user's message and of the request."""

    def next_reply(body):
        return judge_server.script(body["messages"][-1]["content"], body)

    judge_server.next_reply = next_reply
    return judge_server


def with_log_probs(text, log_probs):
    """A reply with the log-probability of each token."""
    content = [{"token": "w", "logprob": each, "top_logprobs": []} for each in log_probs]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "length",
        "logprobs": {"content": content},
    }
    return Reply(json.dumps({"choices": [choice]}).encode())


def answering(genuine, otherwise=()):
    """A script that answers as the genuine model does, but for these canaries."""
    return lambda prompt, body: completion(
        "w60 w60 w60 w60" if prompt in otherwise else genuine[prompt], "length"
    )


def asked(server, canaries, **settings):
    endpoint = Endpoint("served", base_url=server.url, backoff=0.001, retries=1)
    return attest_identity(endpoint, canaries, **settings)


def test_the_genuine_answers_match_and_nothing_but_canaries_is_sent(server, canaries, genuine):
    server.script = answering(genuine)
    found = asked(server, canaries)
    assert (found.verdict, found.changed, found.compared, found.by) == ("match", 0, N, "text")
    assert (found.exit_code, found.alarm_after, found.missing) == (0, None, {})
    sent = [message for body in server.received for message in body["messages"]]
    assert sorted(each["content"] for each in sent) == sorted(canaries.prompts)
    assert {body["max_tokens"] for body in server.received} == {N_TOKENS}
    assert {body["temperature"] for body in server.received} == {0.0}
    kept = json.dumps(found.record()) + str(found)
    assert not any(text in kept for text in (*canaries.prompts, *genuine.values()))


def test_other_answers_are_another_model(server, canaries, genuine):
    server.script = answering(genuine, canaries.prompts)
    found = asked(server, canaries)
    assert (found.verdict, found.changed, found.exit_code) == ("changed", N, 1)
    assert found.alarm_after <= 5
    assert found.score == 1.0
    assert "after" in dict(found.facts)["evidence"]


def test_asking_can_stop_at_the_alarm(server, canaries, genuine):
    server.script = lambda prompt, body: completion("w60 w60 w60 w60", "length")
    whole = asked(server, canaries, seed=3)
    sent = len(server.received)
    endpoint = Endpoint("served", base_url=server.url, backoff=0.001, max_concurrency=2)
    found = attest_identity(endpoint, canaries, seed=3, stop_at_alarm=True)
    # The first is asked alone, then two at a time.
    assert found.alarm_after == whole.alarm_after
    assert found.compared - found.alarm_after in (0, 1)
    assert found.missing == {"not asked after the alarm": N - found.compared}
    assert len(server.received) - sent == found.compared < sent
    assert found.verdict == "changed"
    server.script = answering(genuine)
    found = attest_identity(endpoint, canaries, stop_at_alarm=True)
    assert (found.verdict, found.compared, found.missing) == ("match", N, {})


def test_as_many_changes_as_drift_makes_are_drift(server, canaries, genuine):
    server.script = answering(genuine, canaries.prompts[:2])
    found = asked(server, canaries)
    assert (found.verdict, found.changed, found.exit_code) == ("benign drift", 2, 0)
    assert found.expected == canaries.expected("text").high


def test_ten_requests_in_an_order_of_their_own_are_enough_for_another_model(
    server, canaries, genuine
):
    server.script = answering(genuine, canaries.prompts)
    orders = []
    for seed in (0, 0, 1):
        server.received.clear()
        found = asked(server, canaries, max_requests=10, seed=seed, log_probs=False)
        orders.append({body["messages"][0]["content"] for body in server.received})
        assert (found.verdict, found.compared) == ("changed", 10)
        assert found.missing == {"budget spent": N - 10}
        assert "the budget left out 30" in " ".join(found.limits)
    assert orders[0] == orders[1] != orders[2]


def test_without_a_seed_nobody_knows_which_canaries_are_asked(server, canaries, genuine):
    server.script = answering(genuine)
    sets = []
    for _ in range(2):
        server.received.clear()
        asked(server, canaries, max_requests=10, log_probs=False)
        sets.append({body["messages"][0]["content"] for body in server.received})
    assert len(sets[0]) == len(sets[1]) == 10
    assert sets[0] != sets[1]


def test_errors_time_outs_and_cut_answers_leave_a_canary_out_and_are_counted(
    server, canaries, genuine
):
    bad = dict(
        zip(
            canaries.prompts,
            (Reply(status=429), Reply(status=500), completion("", "length"), HANGS),
            strict=False,
        )
    )
    cut = canaries.prompts[4]
    short = completion(" ".join(genuine[cut].split()[:2]), "length")

    def script(prompt, body):
        return bad.get(prompt) or (
            short if prompt == cut else completion(genuine[prompt], "length")
        )

    server.script = script
    warm_up()
    endpoint = Endpoint("served", base_url=server.url, retries=0, timeout=2.0)
    found = attest_identity(endpoint, canaries)
    assert found.missing == {
        "HTTP 429": 1, "HTTP 500": 1, "timed out": 1, "empty reply": 1, "answer cut short": 1
    }  # fmt: skip
    assert (found.verdict, found.compared, found.changed) == ("match", N - 5, 0)
    assert "left out, HTTP 429" in str(found)


def test_too_few_replies_give_no_verdict(server, canaries, genuine):
    server.script = answering(genuine)
    canaries = replace(canaries, drifted=(audit.Drifted("a", 0, 0),))
    needed = 3
    rate = canaries.expected("text").high
    assert audit.judge_identity([True] * needed, canaries, model="m").verdict == "changed"
    assert audit.judge_identity([True] * (needed - 1), canaries, model="m").verdict == "undecided"
    found = asked(server, canaries, max_requests=needed - 1)
    assert (found.verdict, found.exit_code) == ("undecided", 2)
    assert f"{needed - 1} canaries have a reply, and {needed} are needed" in found.why
    assert 0 < rate < 0.2
    assert judge_identity([Missing("HTTP 500")] * N, canaries, model="m").verdict == "undecided"


def test_log_probabilities_are_used_where_an_endpoint_gives_them(server, canaries, genuine):
    recorded = dict(zip(canaries.prompts, canaries.log_probs, strict=True))

    def script(prompt, body, shift=0.0):
        assert body["logprobs"] is True
        return with_log_probs(genuine[prompt], [each + shift for each in recorded[prompt]])

    server.script = script
    found = asked(server, canaries)
    assert (found.verdict, found.by, found.changed) == ("match", "log-probabilities", 0)
    server.script = lambda prompt, body: script(prompt, body, 2 * max(canaries.tolerances))
    found = asked(server, canaries)
    assert (found.verdict, found.by, found.changed) == ("changed", "log-probabilities", N)
    server.script = lambda prompt, body: completion(genuine[prompt], "length")
    assert asked(server, canaries).by == "text"
    demanded = asked(server, canaries, log_probs=True)
    assert demanded.verdict == "undecided"
    assert demanded.missing == {"reply without log-probabilities": N}


def test_the_first_replies_say_whether_log_probabilities_are_compared(server, canaries, genuine):
    recorded = dict(zip(canaries.prompts, canaries.log_probs, strict=True))

    def script(prompt, body):
        if server.calls > 3:
            return completion(genuine[prompt], "length")
        return with_log_probs(genuine[prompt], recorded[prompt])

    server.script = script
    endpoint = Endpoint("served", base_url=server.url, backoff=0.001, max_concurrency=2)
    found = attest_identity(endpoint, canaries, stop_at_alarm=True)
    assert (found.by, found.compared) == ("log-probabilities", 3)
    assert found.missing == {"reply without log-probabilities": N - 3}


def test_an_endpoint_that_refuses_log_probabilities_is_asked_without(server, canaries, genuine):
    server.script = lambda prompt, body: (
        Reply(status=400) if "logprobs" in body else completion(genuine[prompt], "length")
    )
    found = asked(server, canaries)
    assert (found.verdict, found.by, found.compared) == ("match", "text", N)
    assert sum("logprobs" in body for body in server.received) == 1
    assert server.calls == N + 1
    assert asked(server, canaries, log_probs=True).missing == {"HTTP 400": N}
    within = asked(server, canaries, max_requests=5)
    assert (within.compared, within.missing) == (4, {"budget spent": N - 4})


def test_log_probabilities_behind_a_temperature_of_0_say_nothing(server, canaries, genuine):
    server.script = lambda prompt, body: with_log_probs(genuine[prompt], [0.0] * N_TOKENS)
    found = asked(server, canaries)
    assert (found.verdict, found.by) == ("match", "text")


def test_malformed_log_probabilities_are_none(server, canaries, genuine):
    server.script = lambda prompt, body: with_log_probs(genuine[prompt], [None] * N_TOKENS)
    assert asked(server, canaries).by == "text"


def test_seconds_limit_the_asking(server, canaries, genuine):
    hanging = set(canaries.prompts[20:])
    usual = answering(genuine)
    server.script = lambda prompt, body: HANGS if prompt in hanging else usual(prompt, body)
    warm_up()
    endpoint = Endpoint("served", base_url=server.url, max_concurrency=N)
    found = attest_identity(endpoint, canaries, max_seconds=2.0)
    assert not server.waited_in_vain
    assert found.compared > 0
    assert found.missing["budget spent"] >= 20


def test_a_mixing_provider_is_found_by_the_share_that_is_not_genuine(canaries):
    def share_found(genuine_share):
        generator = torch.Generator().manual_seed(0)
        draws = torch.rand(200, N, generator=generator) >= genuine_share
        verdicts = [judge_identity(row.tolist(), canaries, model="m").verdict for row in draws]
        return verdicts.count("changed") / 200

    shares = [share_found(each) for each in (0.0, 0.5, 0.98)]
    assert shares[0] == 1.0
    assert shares[1] > 0.9
    assert shares[2] < 0.05


def test_a_changed_model_is_found_and_an_unchanged_one_is_not(served, canaries):
    same = audit.changed_answers(served, canaries)
    assert not any(same.text)
    assert not any(same.log_probs)
    assert audit.changed_answers(served, canaries, at_once=1) == same
    weights = [each for name, each in named_weights(served).items() if "mlp" in name]
    before = [weight.detach().clone() for weight in weights]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in weights:
            weight.add_(0.1 * weight.std() * torch.randn(weight.shape, generator=generator))
    changed = audit.changed_answers(served, canaries)
    with torch.no_grad():
        for weight, original in zip(weights, before, strict=True):
            weight.copy_(original)
    assert judge_identity(changed.text, canaries, model="noisy").verdict == "changed"
    assert sum(changed.log_probs) > sum(changed.text) > 0
    with pytest.raises(InputError, match="at_once is 0"):
        audit.changed_answers(served, canaries, at_once=0)


def test_answers_are_judged_against_the_rate_of_what_is_compared(canaries):
    drifting = replace(canaries, drifted=(audit.Drifted("a", 0, 12), audit.Drifted("b", 1, 3)))
    assert drifting.expected("text").value == 1 / N
    assert drifting.expected("log-probabilities").value == 12 / N
    changed = [True] * 10 + [False] * (N - 10)
    assert judge_identity(changed, drifting, model="m").verdict == "changed"
    by = judge_identity(changed, drifting, model="m", by="log-probabilities")
    assert by.verdict == "benign drift"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"false_alarm_rate": 0.0}, "false_alarm_rate is 0"),
        ({"max_requests": 0}, "max_requests is 0"),
        ({"max_seconds": 0.0}, "max_seconds is 0"),
    ],
)
def test_bad_settings_raise_an_error_before_anything_is_sent(server, canaries, settings, message):
    with pytest.raises(InputError, match=message):
        asked(server, canaries, **settings)
    sampling = Endpoint("served", base_url=server.url, temperature=0.7)
    with pytest.raises(InputError, match=r"temperature is 0\.7"):
        attest_identity(sampling, canaries)
    with pytest.raises(InputError, match="41 answers to 40 canaries"):
        judge_identity([True] * (N + 1), canaries, model="m")
    assert server.calls == 0


@pytest.fixture(scope="module")
def guarded_canaries(guarded):
    pool = [
        f"w{i} w{j} w{k} w{k + 2}" for i in range(5, 12) for j in range(30, 34) for k in (40, 50)
    ]
    return audit.sensitive_canaries(guarded, pool, 20, n_tokens=N_TOKENS)


def both(server, fingerprint, sensitive, **settings):
    from canary_models import CANARIES

    endpoint = Endpoint("served", base_url=server.url, backoff=0.001, retries=0)
    return attest_answers(endpoint, fingerprint, CANARIES, sensitive=sensitive, **settings)


@pytest.fixture
def refusing(guarded, guarded_canaries, fingerprint):
    """A fingerprint whose harmful canaries are refused, and a script that does so."""
    from canary_models import CANARIES

    answers = generate(guarded, guarded_canaries.prompts, max_new_tokens=N_TOKENS)
    own = dict(zip(guarded_canaries.prompts, answers, strict=True))
    harmful = set(CANARIES.harmful)

    def script(prompt, body):
        if prompt in own:
            return completion(own[prompt], "length")
        return completion("I'm sorry, I can't." if prompt in harmful else "Sure, here.", "length")

    return replace(fingerprint, refused=(True,) * 16 + (False,) * 16), script, own


def test_the_two_questions_are_answered_apart(server, guarded_canaries, refusing):
    fingerprint, script, own = refusing
    server.script = script
    found = both(server, fingerprint, guarded_canaries)
    assert (found.verdict, found.identity.verdict, found.exit_code) == ("match", "match", 0)
    server.script = lambda prompt, body: (
        completion("w60 w61", "length") if prompt in own else script(prompt, body)
    )
    found = both(server, fingerprint, guarded_canaries)
    assert (found.verdict, found.identity.verdict, found.exit_code) == ("match", "changed", 1)
    assert "is it the model: changed; does it refuse: match" in str(found)
    assert "sensitive, answered otherwise" in str(found)
    server.script = lambda prompt, body: (
        script(prompt, body) if prompt in own else completion("Sure, here.", "length")
    )
    found = both(server, fingerprint, guarded_canaries)
    assert (found.verdict, found.identity.verdict, found.exit_code) == ("tampered", "match", 1)
    server.script = lambda prompt, body: (
        Reply(status=500) if prompt in own else script(prompt, body)
    )
    found = both(server, fingerprint, guarded_canaries)
    assert (found.verdict, found.identity.verdict, found.exit_code) == ("match", "undecided", 2)


def test_both_questions_are_cases_of_a_gate(server, guarded_canaries, refusing):
    fingerprint, script, own = refusing
    server.script = lambda prompt, body: (
        completion("w60 w61", "length") if prompt in own else script(prompt, body)
    )
    found = both(server, fingerprint, guarded_canaries)
    report = audit.junit(found)
    assert 'tests="2" failures="1" errors="0"' in report
    assert "Is it the model whose sensitive canaries were chosen?" in report
    (ran,) = json.loads(audit.sarif(found, "model.json"))["runs"]
    assert ran["invocations"][0]["exitCode"] == 1
    assert [each["ruleId"] for each in ran["results"]] == ["audit/identity"]


def test_both_questions_share_a_budget(server, guarded_canaries, refusing):
    fingerprint, script, _ = refusing
    server.script = script
    found = both(server, fingerprint, guarded_canaries, max_requests=25)
    assert server.calls == 25
    assert (found.identity.compared, found.n_answered) == (12, 13)
    with pytest.raises(InputError, match="at least 2: two questions"):
        both(server, fingerprint, guarded_canaries, max_requests=1)


def test_canaries_of_another_template_are_refused(server, guarded_canaries, refusing):
    fingerprint, _, _ = refusing
    other = replace(guarded_canaries, template_sha256="0")
    with pytest.raises(FingerprintError, match="chat template is not that of the fingerprint"):
        both(server, fingerprint, other)
    assert server.calls == 0
