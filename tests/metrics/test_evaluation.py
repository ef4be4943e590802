"""Evaluation, without text of answers on disk, in logs or in printed output."""

import hashlib
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from outcomes import BOILING, KINDS

import cna_lens
from cna_lens import InputError, generate
from cna_lens.metrics import Answered, Evaluation, evaluate, label, load_labels, save_labels

PROMPTS = ["w5 w6", "w7 w8 w9"]
SECRET = "I'm sorry, but I can't share the secret xyzzy plugh with you."
ANSWERS = [SECRET, "Take a xyzzy rope and make a plugh loop, then make a xyzzy loop."]


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_evaluation_labels_the_answers_of_generate(chat_model):
    answers = generate(chat_model, PROMPTS, max_new_tokens=6)
    assert evaluate(chat_model, PROMPTS, max_new_tokens=6) == label(PROMPTS, answers)


def test_labels_by_hand():
    evaluation = label(PROMPTS, ANSWERS)
    first, second = evaluation.records
    assert (first.refused, second.refused) == (True, False)
    assert (first.words, second.words) == (12, 14)
    assert second.scores["quality"] == cna_lens.ngram_quality(ANSWERS[1])
    assert first.sha256 == hashlib.sha256(SECRET.encode()).hexdigest()
    assert first.prompt_id == hashlib.sha256(b"w5 w6").hexdigest()[:16]
    assert evaluation.refusal_rate == cna_lens.wilson([True, False])
    assert evaluation.mean("quality") == cna_lens.bootstrap_mean(evaluation.scores("quality"))


def test_an_answer_without_a_score_is_missing_from_the_mean():
    mean = label(["a", "b"], ["", "one two three four"]).mean("quality")
    assert (mean.value, mean.n, mean.missing) == (1.0, 1, 1)


def test_scores_of_ones_own():
    evaluation = label(PROMPTS, ["abc", "a"], {"characters": lambda answer: float(len(answer))})
    assert evaluation.scores("characters") == [3.0, 1.0]
    with pytest.raises(InputError, match="no score 'quality'; there are: characters"):
        evaluation.scores("quality")
    mixed = Evaluation((*evaluation.records, *label(PROMPTS, ANSWERS).records))
    with pytest.raises(InputError, match="answer 2 has no score 'characters'"):
        mixed.scores("characters")


def test_a_saved_evaluation_holds_one_line_for_each_answer(tmp_path):
    evaluation = label(PROMPTS, ANSWERS)
    evaluation.save(tmp_path / "labels.jsonl")
    lines = (tmp_path / "labels.jsonl").read_text().splitlines()
    assert [json.loads(line)["sha256"] for line in lines] == [
        record.sha256 for record in evaluation.records
    ]
    assert evaluation.to_frame()["refused"].tolist() == [True, False]
    assert evaluation.to_frame()["quality"].tolist() == evaluation.scores("quality")


@pytest.fixture
def telling_model(chat_model, monkeypatch):
    from cna_lens.metrics import evaluation

    monkeypatch.setattr(evaluation, "finished_answers", lambda *_, **__: iter(enumerate(ANSWERS)))
    return chat_model


def test_disk_logs_and_output_hold_no_text(telling_model, tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    evaluation = evaluate(telling_model, PROMPTS)
    evaluation.save(tmp_path / "labels.jsonl")
    evaluation.to_frame().to_csv(tmp_path / "labels.csv")
    shown = f"{evaluation} {evaluation!r} {evaluation.to_frame().to_string()}"
    shown += caplog.text + "".join(capfd.readouterr())
    assert evaluation.refused == [True, False]
    for text in [shown.encode(), *files(tmp_path).values()]:
        assert b"xyzzy" not in text
        assert b"plugh" not in text
        assert b"w7" not in text


def test_kept_text_is_in_a_file_with_a_notice(telling_model, tmp_path):
    path = tmp_path / "kept" / "answers.jsonl"
    evaluation = evaluate(telling_model, PROMPTS, keep_text=True, text_path=path)
    notice, *rows = map(json.loads, path.read_text().splitlines())
    assert "full text of model answers" in notice["notice"]
    assert [(row["prompt"], row["answer"]) for row in rows] == list(
        zip(PROMPTS, ANSWERS, strict=True)
    )
    assert [row["prompt_id"] for row in rows] == [r.prompt_id for r in evaluation.records]
    assert list(files(tmp_path)) == [path]


@pytest.mark.parametrize(("keep", "path"), [(True, None), (False, "answers.jsonl")])
def test_keep_text_and_text_path_need_each_other(chat_model, keep, path):
    with pytest.raises(InputError, match="keep_text"):
        evaluate(chat_model, PROMPTS, keep_text=keep, text_path=path)


@pytest.mark.parametrize(
    ("prompts", "answers", "options", "said"),
    [
        (PROMPTS, ["one"], {}, "2 prompts and 1 answers"),
        (["w5"], [], {"samples": 0}, "samples is 0"),
        ([[{"content": "w5"}]], ["one"], {}, r"prompts\[0\] holds .* the keys 'role'"),
        (["w5"], ["one"], {"scores": {"words": lambda _: 1.0}}, "a score is called 'words'"),
        (["w5"], ["one"], {"scores": {"outcome": lambda _: 1.0}}, "a score is called 'outcome'"),
    ],
)
def test_what_cannot_be_labelled_is_refused(prompts, answers, options, said):
    with pytest.raises(InputError, match=said):
        label(prompts, answers, **options)


@pytest.mark.usefixtures("without_type_checks")
def test_one_text_or_mapping_is_no_list_and_an_answer_is_a_text(chat_model):
    for one in ("ab", {"a": "w5", "b": "w6"}):
        said = f"is one {type(one).__name__}, expected a list"
        with pytest.raises(InputError, match=f"prompts {said}"):
            evaluate(chat_model, one)
        with pytest.raises(InputError, match=f"prompts {said}"):
            label(one, ANSWERS)
        with pytest.raises(InputError, match=f"answers {said}"):
            label(PROMPTS, one)
    with pytest.raises(InputError, match=r"answers\[1\] is a NoneType, .* the same journal"):
        label(PROMPTS, ["one", None])


# Several answers to each prompt ---------------------------------------------------------------


SORRY, SURE = KINDS["refusal"], KINDS["compliance"]


def test_rates_and_tests_of_several_answers_count_prompts():
    prompts = ["How do I boil eggs?", "How do I boil rice?", "How do I boil peas?"]
    before = label(prompts, [SORRY] * 6 + [SORRY, SURE, SURE], samples=3)
    after = label(prompts, [SURE] * 8 + [SORRY], samples=3)
    assert [record.sample for record in before.records] == [0, 1, 2] * 3
    assert before.refusal_rate == cna_lens.wilson([1.0, 1.0, 1 / 3])
    assert after.refusal_rate == cna_lens.wilson([0.0, 0.0, 1 / 3])
    assert after.refusal_p_value(before) == cna_lens.mcnemar([True] * 2, [False] * 2)
    assert after.refusal_p_value(before) < 1
    assert before.quality.n == 3
    assert before.quality == cna_lens.bootstrap_mean(before.by_prompt(before.scores("quality")))
    with pytest.raises(InputError, match="3 prompts and 8 answers; give 3 answers for each"):
        label(prompts, [SURE] * 8, samples=3)


def test_a_missing_label_is_left_out_of_its_prompts_share():
    found = label([BOILING] * 2, [SORRY, SURE, SURE, SURE], samples=2)
    one, two, three, four = found.records
    known = Evaluation((replace(one, complied=None), two, three, four))
    assert known.compliance_rate == cna_lens.wilson([True, True])
    unknown = Evaluation((replace(one, complied=None), replace(two, complied=None), three, four))
    assert unknown.compliance_rate == cna_lens.wilson([True])


def test_a_part_of_several_answers_keeps_its_prompts_apart():
    found = label([BOILING] * 2, [SORRY, SURE, SORRY, SORRY], samples=2)
    one, two, three, four = found.records
    assert Evaluation((two, three, four)).refusal_rate == cna_lens.wilson([0.0, 1.0])
    assert Evaluation((one, two, four)).by_prompt([1.0, 2.0, 3.0]) == [1.5, 3.0]
    assert Evaluation((one, three)).refusal_rate == cna_lens.wilson([True, True])
    other = label(["How do I boil rice?"], [SORRY, SORRY], samples=2).records[1]
    assert Evaluation((one, other)).by_prompt([1.0, 2.0]) == [1.0, 2.0]
    assert (found.samples, Evaluation((one, three)).samples) == (2, 1)


def test_answers_to_other_prompts_are_not_paired():
    found = label(PROMPTS, ANSWERS)
    for p_value in (found.refusal_p_value, found.compliance_p_value):
        with pytest.raises(InputError, match=r"prompt 0 has the prompt_id .* same order"):
            p_value(label(PROMPTS[::-1], ANSWERS))
        with pytest.raises(InputError, match="answers to 2 prompts, and before to 1"):
            p_value(label(PROMPTS[:1], ANSWERS[:1]))


def test_samples_of_a_prompt_differ_and_follow_each_other(chat_model):
    options = {"max_new_tokens": 6, "temperature": 1.0, "seed": 2}
    found = evaluate(chat_model, PROMPTS, samples=3, **options)
    asked = [prompt for prompt in PROMPTS for _ in range(3)]
    assert found == label(PROMPTS, generate(chat_model, asked, **options), samples=3)
    assert len({record.sha256 for record in found.records}) > 2
    with pytest.raises(InputError, match="samples is 2, but at temperature 0"):
        evaluate(chat_model, PROMPTS, samples=2)
    with pytest.raises(InputError, match="samples is 0"):
        evaluate(chat_model, PROMPTS, samples=0)


# Kept as it comes -------------------------------------------------------------------------------


def test_finished_answers_are_in_the_journal_and_not_generated_again(
    chat_model, tmp_path, monkeypatch
):
    from cna_lens.metrics import evaluation
    from cna_lens.results import Journal

    def journal():
        return Journal(tmp_path / "it.jsonl", "evaluation", {"circuit": "none"})

    whole = evaluate(chat_model, PROMPTS, max_new_tokens=6, journal=journal(), condition="first")
    assert list(journal()) == ["first: 0", "first: 1"]
    assert b"w5" not in (tmp_path / "it.jsonl").read_bytes()
    other = evaluate(chat_model, PROMPTS, max_new_tokens=2, journal=journal(), condition="second")
    assert other != whole
    asked, original = [], evaluation.finished_answers

    def spy(*arguments, places, **options):
        asked.append(places)
        return original(*arguments, places=places, **options)

    monkeypatch.setattr(evaluation, "finished_answers", spy)
    again = evaluate(chat_model, PROMPTS, max_new_tokens=6, journal=journal(), condition="first")
    assert (again, asked) == (whole, [[]])


# Form and compliance --------------------------------------------------------------------------


def test_each_answer_has_one_outcome_and_the_rates_of_all_share_one_denominator():
    answers = [KINDS["refusal"]] * 3 + [KINDS["compliance"]] * 2 + [KINDS["no answer"], ""]
    evaluation = label([BOILING] * 8, [*answers, KINDS["other"]])
    assert evaluation.outcomes == [
        *["refusal"] * 3,
        *["compliance"] * 2,
        *["no answer"] * 2,
        "other",
    ]
    assert evaluation.refusal_rate == cna_lens.wilson([True] * 3 + [False] * 5)
    assert evaluation.compliance_rate == cna_lens.wilson([True] * 2 + [False] * 6)
    assert evaluation.no_answer_rate == cna_lens.wilson([True] * 2 + [False] * 6)
    assert evaluation.to_frame()["outcome"].tolist() == evaluation.outcomes
    assert evaluation.judges == ()


def test_a_refusal_that_loops_is_a_refusal():
    (record,) = label([BOILING], [f"{KINDS['refusal']} " * 8]).records
    assert (record.outcome, record.refused, record.no_answer) == ("refusal", True, False)
    assert record.degenerate


def test_the_request_of_chat_messages_is_the_users_last():
    messages = [
        {"role": "system", "content": "You talk about elephants and their herds."},
        {"role": "user", "content": "What do elephants eat?"},
        {"role": "assistant", "content": "Grass."},
        {"role": "user", "content": BOILING},
    ]
    on_elephants = "Elephants live in large herds. They eat grass, bark and fruit."
    assert label([messages] * 2, [KINDS["compliance"], on_elephants]).complied == [True, False]


@pytest.mark.parametrize("ids", [[5, 6, 7], torch.tensor([5, 6, 7])])
def test_token_ids_have_no_text_so_compliance_is_missing_and_never_zero(ids):
    evaluation = label([ids, ids, BOILING], ["", KINDS["compliance"], KINDS["compliance"]])
    assert evaluation.complied == [None, None, True]
    assert evaluation.outcomes == ["no answer", None, "compliance"]
    assert evaluation.compliance_rate.n == 1
    assert label([ids], [KINDS["compliance"]]).compliance_rate is None


def test_labels_of_a_file_are_read_again_and_older_ones_are_missing(tmp_path):
    evaluation = label([BOILING] * 4 + [[5, 6]], [*KINDS.values(), "a b"])
    path = tmp_path / "labels.jsonl"
    evaluation.save(path)
    (read,) = load_labels(path)
    assert read.evaluation == evaluation
    older = [json.loads(line) for line in path.read_text().splitlines()]
    for record in older:
        for name in ("complied", "no_answer", "judge", "judge_id", "degenerate"):
            del record[name]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in older))
    (read,) = load_labels(path)
    assert read.evaluation.refusal_rate == evaluation.refusal_rate
    assert read.evaluation.compliance_rate is None
    assert read.evaluation.no_answer_rate is None
    assert read.evaluation.outcomes == ["refusal", None, None, None, None]
    path.write_text(json.dumps(older[0] | {"complied": "yes"}))
    with pytest.raises(InputError, match=r"line 1 of .* is no record"):
        load_labels(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"labels\.jsonl is no text in UTF-8"):
        load_labels(path)


def test_two_evaluations_of_one_condition_and_kind_are_not_written(tmp_path):
    found = label(PROMPTS, ANSWERS)
    kinds = [Answered("circuit", kind, found) for kind in ("harmful", "benign")]
    path = tmp_path / "labels.jsonl"
    save_labels(iter(kinds), path)
    assert load_labels(path) == tuple(kinds)
    with pytest.raises(InputError, match="2 evaluations have the condition 'circuit' and the kind"):
        save_labels([*kinds, kinds[0]], path)
    assert load_labels(path) == tuple(kinds)


def test_a_journals_record_of_another_prompt_sample_or_score_is_not_taken(chat_model, tmp_path):
    from cna_lens.results import Journal

    def found(prompts, **options):
        journal = Journal(tmp_path / "it.jsonl", "evaluation", {})
        return evaluate(chat_model, prompts, max_new_tokens=4, journal=journal, **options)

    found(PROMPTS)
    assert found(PROMPTS[::-1]) == evaluate(chat_model, PROMPTS[::-1], max_new_tokens=4)
    sampled = {"samples": 2, "temperature": 1.0}
    assert found(PROMPTS, **sampled) == evaluate(chat_model, PROMPTS, max_new_tokens=4, **sampled)
    scored = {"scores": {"characters": lambda answer: float(len(answer))}} | sampled
    assert found(PROMPTS, **scored) == evaluate(chat_model, PROMPTS, max_new_tokens=4, **scored)


def test_a_file_of_texts_that_is_none_is_refused(chat_model, tmp_path):
    from cna_lens.results import Journal

    journal, path = Journal(None, "evaluation", {}), tmp_path / "answers.jsonl"
    options = {"keep_text": True, "text_path": path, "max_new_tokens": 2, "journal": journal}
    evaluate(chat_model, PROMPTS, **options)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is no file of answers"):
        evaluate(chat_model, PROMPTS, **options)


@pytest.mark.usefixtures("without_type_checks")
def test_token_ids_of_numpy_are_those_of_python(chat_model, tmp_path):
    ids = [[5, 6], [7, 8, 9]]
    kept = {"keep_text": True, "text_path": tmp_path / "answers.jsonl", "max_new_tokens": 2}
    assert evaluate(chat_model, [list(np.array(each)) for each in ids], **kept) == evaluate(
        chat_model, ids, max_new_tokens=2
    )


def test_only_texts_with_our_notice_are_deleted(tmp_path):
    from cna_lens.metrics import write_answers
    from cna_lens.metrics.answer_texts import forget_answers

    write_answers(tmp_path / "answers-circuit.jsonl", ["a"], ["b"])
    (tmp_path / "answers-mine.jsonl").write_bytes(b"\xff\xfe")
    (tmp_path / "answers-folder.jsonl").mkdir()
    assert forget_answers(tmp_path) == ["answers-circuit.jsonl"]
    assert len(list(tmp_path.iterdir())) == 2
