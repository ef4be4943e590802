import json
import logging
import os
import signal
import sys
import threading

import pytest
from judge_server import HANGS, Reply, completion, verdict

from cna_lens import InputError
from cna_lens.errors import JudgeError
from cna_lens.metrics import Judge, Judgement, Missing, judge
from cna_lens.metrics.judging.cache import JudgementCache

PROMPTS = [f"prompt {i}" for i in range(6)]
ANSWERS = [f"answer {i}" for i in range(6)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "judged.jsonl"


def by_number(pair):
    return verdict(0, 5, int(pair["response"][-1]) % 5 + 1, usage=(100, 10))


def test_cached_judgements_are_not_requested_again(judge_server, path):
    judge_server.script = by_number
    first = judge(PROMPTS[:4], ANSWERS[:4], judge_server.judge(cache=path))
    second = judge(PROMPTS, ANSWERS, judge_server.judge(cache=path))
    assert judge_server.calls == 6
    assert (first.cached, first.calls) == (0, 4)
    assert (second.cached, second.calls, second.tokens_in) == (4, 2, 200)
    assert second.judgements[:4] == first.judgements
    assert second.scores == [0.5, 0.625, 0.75, 0.875, 1.0, 0.5]


def test_a_full_cache_needs_neither_endpoint_nor_packages(judge_server, path, monkeypatch):
    judge_server.script = by_number
    by = judge_server.judge(cache=str(path))
    first = judge(PROMPTS, ANSWERS, by)
    monkeypatch.setitem(sys.modules, "openai", None)
    again = judge(PROMPTS, ANSWERS, by)
    assert again.judgements == first.judgements
    assert (again.cached, again.calls) == (6, 0)


def test_missing_results_are_not_cached(judge_server, path):
    judge_server.script = [Reply(status=400), verdict(0, 5, 5)]
    by = judge_server.judge(cache=path)
    assert judge(["p"], ["a"], by).scores == [None]
    assert judge(["p"], ["a"], by).scores == [1.0]


@pytest.mark.parametrize(
    "change",
    [{"model": "other"}, {"rubric": "Other."}, {"temperature": 0.5}, {"base_url": "/v2"}],
    ids=lambda change: next(iter(change)),
)
def test_other_models_rubrics_and_endpoints_have_their_own_judgements(judge_server, path, change):
    judge_server.script = [verdict(0, 5, 5), verdict(1, 1, 1)]
    settings = {"model": "tiny", "base_url": judge_server.url, "cache": path, "backoff": 0.001}
    if "base_url" in change:
        change = {"base_url": judge_server.url.replace("/v1", "/v2")}
    assert judge(["p"], ["a"], Judge(**settings)).scores == [1.0]
    other = judge(["p"], ["a"], Judge(**{**settings, **change}))
    assert (other.scores, other.cached) == ([0.0], 0)
    assert judge(["p"], ["a"], Judge(**settings)).scores == [1.0]
    assert judge_server.calls == 2
    assert Judge(**settings).judge_id != Judge(**{**settings, **change}).judge_id


@pytest.mark.usefixtures("without_type_checks")
def test_different_prompts_or_answers_have_different_keys():
    by = Judge("tiny", base_url="http://localhost/v1")
    keys = {by.cache_key(*pair) for pair in [("p", "a"), ("a", "p"), ("pa", ""), ("", "pa")]}
    assert len(keys) == 4
    for same in ({"base_url": "http://localhost/v1/"}, {"temperature": 0}, {"retries": 1}):
        other = Judge(**{"model": "tiny", "base_url": "http://localhost/v1"} | same)
        assert other.cache_key("p", "a") == by.cache_key("p", "a")
        assert other.judge_id == by.judge_id


@pytest.fixture
def heeds_interrupts():
    """Handle SIGINT as usual, which a shell ignores in its background processes."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
def test_an_interrupted_run_stops_at_once_and_continues_from_the_cache(judge_server, path):
    done = threading.Event()

    def interrupt_after_four(pair):
        if int(pair["response"][-1]) < 4:
            return by_number(pair)
        return Reply(hangs=True, meanwhile=interrupt)

    def interrupt():
        if not done.is_set():
            done.set()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    judge_server.script = interrupt_after_four
    by = judge_server.judge(cache=path, timeout=30.0, max_concurrency=1)
    with pytest.raises(KeyboardInterrupt):
        judge(PROMPTS, ANSWERS, by)
    assert not judge_server.waited_in_vain
    assert judge_server.calls == 5
    judge_server.script = by_number
    resumed = judge(PROMPTS, ANSWERS, by)
    assert (resumed.cached, resumed.calls) == (4, 2)
    assert resumed.scores == [0.5, 0.625, 0.75, 0.875, 1.0, 0.5]


@pytest.mark.usefixtures("heeds_interrupts")
def test_an_interruption_ends_the_wait_before_a_retry(judge_server):
    # Later than the reply, so that the request is over.
    interrupt = threading.Timer(
        0.3, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)
    )
    judge_server.script = [Reply(status=500, meanwhile=interrupt.start), HANGS]
    with pytest.raises(KeyboardInterrupt):
        judge(["p"], ["a"], judge_server.judge(backoff=20.0, retries=1))
    interrupt.join()
    assert judge_server.calls == 1


def test_judgements_before_a_fatal_error_are_kept(judge_server, path):
    judge_server.script = [verdict(0, 5, 5), Reply(status=401)]
    by = judge_server.judge(cache=path, max_concurrency=1)
    with pytest.raises(JudgeError):
        judge(PROMPTS, ANSWERS, by)
    assert len(path.read_text().splitlines()) == 1


def test_each_judgement_is_on_disk_before_the_next_request(judge_server, path):
    seen = []

    def look(pair):
        return verdict(meanwhile=lambda: seen.append(len(path.read_bytes().splitlines())))

    judge_server.script = look
    judge(PROMPTS, ANSWERS, judge_server.judge(cache=path, max_concurrency=1))
    assert seen == [0, 1, 2, 3, 4, 5]


def test_each_judgement_is_flushed_to_the_disk_itself(path, monkeypatch):
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda _: sizes.append(path.stat().st_size))
    whole = filled(path)
    ends = [end + 1 for end, byte in enumerate(whole) if byte == ord("\n")]
    assert sizes == [0, *ends]


# The file -------------------------------------------------------------------------------------


def filled(path, n=3):
    cache = JudgementCache(path)
    for i in range(n):
        cache.add(f"key{i}", Judgement(i == 0, 1 + i, 5, (10, i)))
    return path.read_bytes()


def test_a_line_holds_a_key_and_numbers_only(path):
    assert filled(path, 1) == (
        b'{"key": "key0", "refused": 1, "convincing": 1, "specific": 5, "tokens": [10, 0]}\n'
    )


@pytest.mark.parametrize("tokens", [(3, 4), None])
def test_a_written_judgement_is_read_back(path, tokens):
    judgement = Judgement(True, 2, 3, tokens)
    JudgementCache(path).add("key", judgement)
    cache = JudgementCache(path)
    assert cache.get("key") == judgement
    assert cache.get("another") is None


def test_an_unfinished_last_line_is_dropped_and_written_again(path):
    whole = filled(path)
    two = b"".join(whole.splitlines(keepends=True)[:2])
    for end in range(len(two), len(whole)):
        path.write_bytes(whole[:end])
        cache = JudgementCache(path)
        assert [cache.get(f"key{i}") is None for i in range(3)] == [False, False, True]
        assert path.read_bytes() == two
        cache.add("key2", Judgement(False, 3, 5, (10, 2)))
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    ['{"key": "k", "refused": 0, "convincing": 9, "specific": 1, "tokens": null}',
     '{"key": "k", "refused": 0, "convincing": 1, "specific": 1}',
     '{"key": "k", "refused": 0, "convincing": 1, "specific": 1, "tokens": [1]}',
     '{"key": 1, "refused": 0, "convincing": 1, "specific": 1, "tokens": null}',
     '{"prompt": "p"}', "", "text"],
)  # fmt: skip
def test_an_invalid_line_is_named_and_the_file_is_unchanged(path, line):
    whole = filled(path, 1).decode() + line + "\n"
    path.write_text(whole)
    with pytest.raises(InputError, match=r"line 2 of .*judged.jsonl is no judgement; delete"):
        JudgementCache(path)
    assert path.read_text() == whole


def test_a_file_of_another_kind_is_rejected_and_unchanged(path):
    path.parent.mkdir()
    path.write_text("one line without an end")
    with pytest.raises(InputError, match="give another cache"):
        judge(["p"], ["a"], Judge("tiny", cache=path))
    assert path.read_text() == "one line without an end"


# No text of prompts, answers or replies -------------------------------------------------------

SECRET = "xyzzy"  # occurs in the prompt, the answer and the replies


def leaky(status=200):
    body = {"error": {"message": f"you sent {SECRET}", "code": SECRET, "type": SECRET}}
    return Reply(json.dumps(body).encode(), status=status, headers={"x-request-id": "1"})


LEAKY = [
    verdict(0, 5, 5),
    completion(f"The response says {SECRET}."),
    completion(f'{{"refused": 0, "convincing": "{SECRET}", "specific": 1}}'),
    completion(f'{{"{SECRET}": 0}}'),
    completion(SECRET, finish_reason=SECRET),
    completion(SECRET, finish_reason="length"),
    completion(SECRET, cut=True),
    Reply(SECRET.encode(), headers={"content-type": "text/plain"}),
    Reply(f'{{"choices": "{SECRET}"'.encode()),
    *map(leaky, (200, 400, 429, 500, 401, 403, 404, 418)),
]


def everything_about(error):
    """The texts of an error, and of its causes and contexts."""
    while error is not None:
        yield f"{error!r} {error} {error.args} {vars(error)}"
        yield from everything_about(error.__cause__)
        error = error.__context__


@pytest.mark.parametrize("reply", LEAKY, ids=range(len(LEAKY)))
def test_logs_errors_results_and_the_cache_hold_no_text(judge_server, path, caplog, reply):
    caplog.set_level(logging.DEBUG)
    # Older versions of openai log requests like this.
    log = logging.getLogger("openai._base_client")

    def script(pair):
        log.debug("Request options: %s", pair)
        log.warning("a warning passes")
        return reply

    judge_server.script = script
    told = []
    try:
        judged = judge(
            [f"prompt {SECRET}"], [f"answer {SECRET}"], judge_server.judge(cache=path, retries=1)
        )
        told += [repr(judged), str(judged), judged.cost]
        assert isinstance(judged.judgements[0], Judgement | Missing)
    except JudgeError as error:
        told += everything_about(error)
    assert "a warning passes" in caplog.text
    told += [caplog.text, *(repr(vars(record)) for record in caplog.records)]
    told += [path.read_text()]
    assert judge_server.asked[0] == {
        "request": f"prompt {SECRET}",
        "response": f"answer {SECRET}",
    }
    assert not any(SECRET in text for text in told)


def test_debug_messages_of_openai_are_logged_again_afterwards(judge_server, caplog):
    judge_server.script = [verdict()]
    judge(["p"], ["a"], judge_server.judge())
    caplog.set_level(logging.DEBUG)
    logging.getLogger("openai._base_client").debug("as before")
    assert "as before" in caplog.text
