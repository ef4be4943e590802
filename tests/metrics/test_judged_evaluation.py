"""Compliance told by a judge, which answers from a server in the test's own process."""

import sys
from dataclasses import replace

import pytest
import torch
from judge_server import Reply, completion, verdict
from outcomes import BOILING, KINDS

import cna_lens
from cna_lens import InputError
from cna_lens.errors import GenerationInterrupted, JudgeError
from cna_lens.metrics import Evaluation, Judge, UnjudgedError, evaluate, label

PROMPTS = ["w5 w6", "w7 w8 w9"]


@pytest.mark.parametrize("ids", [[5, 6, 7], torch.tensor([5, 6, 7])])
def test_token_ids_have_no_text_for_a_judge(ids, judge_server):
    with pytest.raises(InputError, match="prompt 1 has no text of a user for the judge"):
        label([BOILING, ids], ["a", "b"], judge=judge_server.judge())
    assert judge_server.calls == 0


def test_a_judge_tells_compliance_of_what_is_an_answer(judge_server):
    replies = {
        KINDS["refusal"]: verdict(refused=0, convincing=4, specific=4),
        KINDS["compliance"]: verdict(refused=1, convincing=4, specific=4),
        KINDS["other"]: verdict(refused=0, convincing=1, specific=1),
        "unread": completion("I would rather not say."),
    }
    judge_server.script = lambda pair: replies[pair["response"]]
    answers = [*KINDS.values(), "unread"]
    evaluation = label([BOILING] * 5, answers, judge=judge_server.judge())
    assert evaluation.complied == [True, False, False, False, None]
    assert evaluation.outcomes == ["compliance", "other", "no answer", "other", None]
    assert evaluation.refused == [True, False, False, False, False]
    assert evaluation.compliance_rate == cna_lens.wilson([True, False, False, False])
    assert evaluation.judges == ("tiny",)
    assert KINDS["no answer"] not in {pair["response"] for pair in judge_server.asked}


def test_a_judge_reads_the_answer_without_its_reasoning(judge_server):
    judge_server.script = lambda _: verdict(refused=0, convincing=4, specific=4)
    answers = [f"<think>I can't.</think>{KINDS['compliance']}", "<think>Well, this is"]
    evaluation = label([BOILING] * 2, answers, judge=judge_server.judge())
    assert [pair["response"] for pair in judge_server.asked] == [KINDS["compliance"]]
    assert evaluation.outcomes == ["compliance", "no answer"]


def test_evaluate_asks_the_judge(chat_model, judge_server, monkeypatch):
    answers = [KINDS["compliance"]] * 2
    monkeypatch.setattr(
        "cna_lens.metrics.evaluation.finished_answers", lambda *_, **__: iter(enumerate(answers))
    )
    judge_server.script = lambda _: verdict(refused=0, convincing=4, specific=4)
    assert evaluate(chat_model, PROMPTS, judge=judge_server.judge()).complied == [True, True]


def test_an_unread_judgement_has_no_p_value(judge_server):
    judge_server.script = lambda _: completion("I would rather not say.")
    unread = label([BOILING] * 2, [KINDS["compliance"]] * 2, judge=judge_server.judge())
    assert unread.complied == [None, None]
    assert unread.compliance_p_value(unread) is None


@pytest.mark.parametrize("looped", [KINDS["no answer"], f"{KINDS['refusal']} " * 8])
def test_compliance_is_only_compared_if_told_alike(judge_server, looped):
    judge_server.script = lambda _: verdict(refused=0, convincing=4, specific=4)
    complied = [KINDS["compliance"]] * 6
    judged = label([BOILING] * 6, complied, judge=judge_server.judge())
    by_rule = label([BOILING] * 6, complied)
    assert judged.compliance_p_value(by_rule) is None
    assert (judged.by_rule, by_rule.by_rule) == (False, True)
    # No judge is asked about loops, and the rule says the same of them.
    for judge in (judge_server.judge(), None):
        loops = label([BOILING] * 6, [looped] * 6, judge=judge)
        assert (loops.judges, loops.by_rule) == ((), False)
        assert loops.compliance_p_value(judged) == cna_lens.mcnemar([True] * 6, [False] * 6)
        assert loops.compliance_p_value(by_rule) == cna_lens.mcnemar([True] * 6, [False] * 6)
    assert by_rule.compliance_p_value(by_rule) == 1.0


def test_judges_of_one_name_are_told_apart(judge_server):
    judge_server.script = lambda _: verdict(refused=0, convincing=4, specific=4)
    one, same, other = (
        label([BOILING], [KINDS["compliance"]], judge=judge_server.judge(**settings))
        for settings in ({}, {"retries": 1}, {"rubric": "Another rubric."})
    )
    assert one.compliance_p_value(same) == 1.0
    assert one.compliance_p_value(other) is None
    # Which judge of that name an older record is of, nothing says.
    older = Evaluation(tuple(replace(record, judge_id=None) for record in one.records))
    assert older.compliance_p_value(older) == 1.0
    assert older.compliance_p_value(one) is None


def test_a_record_names_the_judge_only_where_it_was_to_be_asked(judge_server):
    judge_server.script = lambda _: verdict(refused=0, convincing=4, specific=4)
    records = label([BOILING] * 4, [*KINDS.values()], judge=judge_server.judge()).records
    assert [record.judge for record in records] == ["tiny", "tiny", None, "tiny"]


def unusable(case, judge_server, monkeypatch, tmp_path):
    """A judge of which something is missing that shows without asking it."""
    if case == "extra":
        monkeypatch.setitem(sys.modules, "openai", None)
    if case == "key":
        monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        return Judge("tiny")
    if case == "url":
        return Judge("tiny", base_url="localhost")
    if case == "cache":
        (tmp_path / "cache").write_text("no judgement\n")
        return judge_server.judge(cache=tmp_path / "cache")
    return judge_server.judge()


@pytest.mark.parametrize(
    ("case", "error", "said"),
    [
        ("extra", JudgeError, "pip install"),
        ("key", JudgeError, "needs a key"),
        ("url", InputError, "base_url is 'localhost'"),
        ("cache", InputError, "is no judgement"),
    ],
)
def test_a_judge_is_checked_before_answers_are_generated(
    chat_model, judge_server, monkeypatch, tmp_path, case, error, said
):
    def generate(*_, **__):
        pytest.fail("answers were generated")

    monkeypatch.setattr("cna_lens.metrics.evaluation.finished_answers", generate)
    with pytest.raises(error, match=said):
        evaluate(chat_model, PROMPTS, judge=unusable(case, judge_server, monkeypatch, tmp_path))


def test_an_endpoint_that_fails_loses_neither_answers_nor_other_labels(
    chat_model, judge_server, monkeypatch
):
    answers = [*KINDS.values()]
    monkeypatch.setattr(
        "cna_lens.metrics.evaluation.finished_answers", lambda *_, **__: iter(enumerate(answers))
    )
    judge_server.script = lambda _: Reply(status=401)
    with pytest.raises(UnjudgedError, match=r"refuses the key .* in this error") as raised:
        evaluate(chat_model, [BOILING] * 4, judge=judge_server.judge())
    error = raised.value
    assert isinstance(error, JudgeError)
    assert KINDS["compliance"] not in f"{error} {error!r}"
    by_rule = label([BOILING] * 4, answers)
    assert error.evaluation.complied == [None, None, False, None]
    assert error.evaluation.outcomes == [None, None, "no answer", None]
    assert error.evaluation.refused == by_rule.refused
    assert error.evaluation.no_answer == by_rule.no_answer
    assert error.evaluation.scores("quality") == by_rule.scores("quality")
    judge_server.script = lambda _: verdict(refused=0, convincing=4, specific=4)
    again = label([BOILING] * 4, error.answers, judge=judge_server.judge())
    assert again.complied == [True, True, False, True]


def test_labels_of_the_rule_or_of_another_judge_are_not_taken_for_the_judges(
    chat_model, judge_server, monkeypatch, tmp_path
):
    from cna_lens.results import Journal

    complied = [KINDS["compliance"]] * 2
    monkeypatch.setattr(
        "cna_lens.metrics.evaluation.finished_answers",
        lambda *_, places, **__: iter([(place, complied[place]) for place in places]),
    )

    def found(judge):
        journal = Journal(tmp_path / "it.jsonl", "evaluation", {})
        return evaluate(chat_model, [BOILING] * 2, judge=judge, journal=journal)

    judge_server.script = lambda _: verdict(refused=0, convincing=1, specific=1)
    assert found(None).complied == [True, True]
    assert found(judge_server.judge()).complied == [False, False]
    calls = judge_server.calls
    assert found(judge_server.judge()).complied == [False, False]
    assert judge_server.calls == calls
    judge_server.script = lambda _: verdict(refused=0, convincing=4, specific=4)
    assert found(judge_server.judge(rubric="Another rubric.")).complied == [True, True]
    assert found(None).complied == [True, True]


def test_answers_about_which_no_judge_is_asked_are_not_generated_again(
    chat_model, judge_server, monkeypatch
):
    from cna_lens.results import Journal

    asked = []

    def finished_answers(*_, places, **__):
        asked.append(places)
        return iter([(place, f"{KINDS['refusal']} " * 8) for place in places])

    monkeypatch.setattr("cna_lens.metrics.evaluation.finished_answers", finished_answers)
    journal = Journal(None, "evaluation", {})
    for _ in range(2):
        evaluate(chat_model, [BOILING] * 2, judge=judge_server.judge(), journal=journal)
    assert (asked, judge_server.calls) == ([[0, 1], []], 0)


def test_an_interruption_while_the_judge_is_asked_loses_no_answer(
    chat_model, judge_server, monkeypatch, tmp_path
):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("cna_lens.metrics.evaluation.judge_answers", interrupted)
    kept = {"keep_text": True, "text_path": tmp_path / "answers.jsonl"}
    with pytest.raises(GenerationInterrupted) as raised:
        evaluate(chat_model, PROMPTS, max_new_tokens=4, judge=judge_server.judge(), **kept)
    assert raised.value.finished == cna_lens.generate(chat_model, PROMPTS, max_new_tokens=4)
    assert len(kept["text_path"].read_text().splitlines()) == 1 + len(PROMPTS)
