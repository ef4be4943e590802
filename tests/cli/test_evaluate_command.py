"""`cna-lens evaluate`: labels beside a control, kept as they come."""

import hashlib
import json
from dataclasses import replace

import pytest
from judge_server import Reply, completion, verdict
from scaled import ASKED, answers_of

import cna_lens
from cna_lens import Circuit
from cna_lens.cli import bench, render
from cna_lens.cli.rates import print_cells
from cna_lens.cli.render import ranking_cell, ranking_table
from cna_lens.metrics import Answered, Evaluation, label


def test_evaluate_labels_answers_beside_a_control_and_keeps_no_text(
    evaluate, found, model, tmp_path
):
    path, _ = found
    code, output, _ = evaluate("--circuit", path, "--multiplier", -20)
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80
    lines = (tmp_path / "out/labels.jsonl").read_text().splitlines()
    labels = [json.loads(line) for line in lines]
    assert [label["condition"] for label in labels] == [
        condition
        for condition in ("unsteered, m = 1", "circuit, m = -20", "random control, m = -20")
        for _ in range(2)
    ]
    answers = [*answers_of(model, ASKED), *answers_of(model, ASKED, path)]
    hashes = [hashlib.sha256(answer.encode()).hexdigest() for answer in answers]
    assert [label["sha256"] for label in labels[:4]] == hashes
    stored = "".join(file.read_text() for file in (tmp_path / "out").iterdir()) + output
    assert not any(answer in stored for answer in answers)


def test_evaluate_keeps_texts_on_request_in_a_file_with_a_notice(evaluate, model, tmp_path):
    code, _, _ = evaluate("--keep-text")
    assert code == 0
    written = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert written == ["answers-unsteered.jsonl", "finished.jsonl", "labels.jsonl", "run.json"]
    lines = (tmp_path / "out/answers-unsteered.jsonl").read_text().splitlines()
    notice, *rows = map(json.loads, lines)
    assert "full text" in notice["notice"]
    assert [row["answer"] for row in rows] == answers_of(model, ASKED)


def test_evaluate_prints_rates_with_intervals_as_json(evaluate, found):
    code, output, _ = evaluate("--circuit", found[0], "--json")
    assert code == 0
    printed = json.loads(output)
    assert [row["refusal"]["n"] for row in printed["rows"]] == [2, 2, 2]
    assert [row["compliance"]["n"] for row in printed["rows"]] == [2, 2, 2]
    assert [row["no_answer"]["n"] for row in printed["rows"]] == [2, 2, 2]
    assert [row["judges"] for row in printed["rows"]] == [[], [], []]
    for test in ("mcnemar_p", "compliance_mcnemar_p"):
        assert set(printed[test]) == {"circuit, m = 0", "random control, m = 0"}


@pytest.fixture
def telling(monkeypatch):
    """Let the model give answers about which a judge is asked."""
    answer = "Boil it in water. Then peel it under a tap."
    monkeypatch.setattr(
        "cna_lens.metrics.evaluation.finished_answers",
        lambda _, __, places, **___: iter([(place, answer) for place in places]),
    )


@pytest.mark.usefixtures("telling")
def test_evaluate_asks_a_judge_and_writes_its_labels(evaluate, judge_server, tmp_path):
    judge_server.script = lambda pair: verdict(refused=0, convincing=3, specific=3)
    code, output, _ = evaluate("--judge", "a judge", "--judge-url", judge_server.url)
    assert code == 0
    assert "judged by a judge" in " ".join(output.split())
    lines = (tmp_path / "out/labels.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert {record["judge"] for record in records} == {"a judge"}
    assert json.loads((tmp_path / "out/run.json").read_text())["settings"]["judge"] == "a judge"
    code, _, errors = evaluate("--judge-url", judge_server.url)
    assert code == 2
    assert "name the model with --judge" in errors


@pytest.mark.usefixtures("telling")
def test_replies_that_cannot_be_read_give_no_p_value(evaluate, found, judge_server):
    judge_server.script = lambda pair: completion("I would rather not say.")
    asked = "--circuit", found[0], "--judge", "a judge", "--judge-url", judge_server.url
    code, output, _ = evaluate(*asked)
    assert code == 0
    assert "for refusals and - for compliance" in " ".join(output.split())
    printed = json.loads(evaluate(*asked, "--json")[1])
    assert set(printed["compliance_mcnemar_p"].values()) == {None}


@pytest.mark.usefixtures("telling")
def test_a_judge_that_fails_leaves_the_other_labels(evaluate, judge_server, tmp_path):
    judge_server.script = lambda pair: Reply(status=401)
    code, _, errors = evaluate("--judge", "a judge", "--judge-url", judge_server.url)
    assert code != 0
    assert "labels.jsonl holds the labels" in " ".join(errors.split())
    lines = (tmp_path / "out/labels.jsonl").read_text().splitlines()
    assert [json.loads(line)["complied"] for line in lines] == [None, None]


def test_the_table_of_rates_keeps_to_80_columns_and_shows_a_missing_label_as_missing(capsys):
    texts = [
        "I'm sorry, I can't help.",
        "Boil it in water. Then peel it under a tap.",
        "",
        "no " * 9,
    ]
    found = label(["How do I boil an egg?"] * 100, texts * 25)
    older = Evaluation(
        tuple(replace(each, complied=None, no_answer=None) for each in found.records)
    )
    print_cells(
        [
            Answered("random control, d = -2", "harmful", found),
            Answered("unsteered, m = 1", "benign", older),
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    cells = [[part.strip() for part in line.split("│")] for line in lines if "│" in line]
    first, second, third, _ = cells
    assert first == [
        "random control, d = -2",
        "harmful",
        "25%",
        "25%",
        "50%",
        f"{found.quality.value:.3f}",
    ]
    assert second == ["", "n = 100", "[18, 34]", "[18, 34]", "[40, 60]", ""]
    assert third[2:5] == ["25%", "-", "-"]
    some = (replace(found.records[0], complied=None), *found.records[1:])
    print_cells([Answered("unsteered, m = 1", "benign", Evaluation(some))])
    assert capsys.readouterr().out.count("n = 99") == 1


# Interrupted and continued ----------------------------------------------------------------------


@pytest.fixture
def interrupted(monkeypatch):
    """Interrupt generation when this many answers are finished; return all that were."""

    from cna_lens.metrics import evaluation

    original = evaluation.finished_answers

    def after(count):
        answered = []

        def until(*arguments, **options):
            for place, answer in original(*arguments, **options):
                yield place, answer
                answered.append(place)
                if len(answered) == count:
                    raise KeyboardInterrupt

        monkeypatch.setattr(evaluation, "finished_answers", until)
        return answered

    return after


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_interrupted_evaluation_goes_on_and_gives_the_same_labels(
    evaluate, found, interrupted, tmp_path
):
    steered = "--circuit", found[0], "--multiplier", -20
    assert evaluate(*steered)[0] == 0
    (tmp_path / "out").rename(tmp_path / "whole")
    first = interrupted(3)
    code, _, errors = evaluate(*steered)
    assert code == 130
    said = " ".join(errors.split())
    assert "3 answers are finished and kept in" in said
    assert "run the same command again" in said
    assert not (tmp_path / "out/labels.jsonl").exists()
    second = interrupted(-1)
    assert evaluate(*steered)[0] == 0
    # Unsteered, steered and the control: of six answers each was finished once.
    assert (len(first), len(second)) == (3, 3)
    assert files(tmp_path / "out")["labels.jsonl"] == files(tmp_path / "whole")["labels.jsonl"]
    third, run = interrupted(-1), files(tmp_path / "out")["run.json"]
    assert evaluate(*steered)[0] == 0
    assert third == []
    # It took no time to answer again.
    assert files(tmp_path / "out")["run.json"] == run


def test_the_texts_of_an_interrupted_evaluation_are_kept_on_request_alone(
    evaluate, interrupted, model, tmp_path
):
    interrupted(1)
    assert evaluate("--keep-text")[0] == 130
    kept = (tmp_path / "out/answers-unsteered.jsonl").read_text()
    again = interrupted(-1)
    assert evaluate("--keep-text")[0] == 0
    assert len(again) == 1
    notice, *rows = (tmp_path / "out/answers-unsteered.jsonl").read_text().splitlines()
    assert [json.loads(row)["answer"] for row in rows] == answers_of(model, ASKED)
    assert set(kept.splitlines()) < {notice, *rows}
    # A text that is gone is generated again.
    (tmp_path / "out/answers-unsteered.jsonl").write_text("\n".join([notice, rows[0], ""]))
    assert evaluate("--keep-text")[0] == 0
    assert (tmp_path / "out/answers-unsteered.jsonl").read_text().splitlines() == [notice, *rows]


def test_without_keep_text_the_texts_of_an_earlier_run_are_deleted(evaluate, found, tmp_path):
    assert evaluate("--circuit", found[0], "--keep-text")[0] == 0
    mine = tmp_path / "out/answers-of-mine.jsonl"
    mine.write_text('{"answer": "my own"}\n')
    code, _, errors = evaluate("--circuit", found[0])
    assert code == 0
    assert "Deleted the texts of an earlier run: answers-circuit.jsonl" in " ".join(errors.split())
    written = sorted(files(tmp_path / "out"))
    assert written == ["answers-of-mine.jsonl", "finished.jsonl", "labels.jsonl", "run.json"]


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [("--max-new-tokens", 7, "max_new_tokens"), ("--temperature", 1, "temperature")],
)
def test_another_command_in_the_same_folder_is_refused(evaluate, option, value, name, tmp_path):
    assert evaluate()[0] == 0
    before = files(tmp_path / "out")
    code, _, errors = evaluate(option, value)
    assert code == 2
    assert name in errors
    assert "finished.jsonl" in errors
    assert files(tmp_path / "out") == before


def test_another_circuit_in_the_same_folder_is_refused(evaluate, found, tmp_path):
    circuit = Circuit.load(found[0])
    replace(circuit, neurons=circuit.neurons[:1], scores=circuit.scores[:1]).save(
        tmp_path / "other.json"
    )
    assert evaluate("--circuit", found[0])[0] == 0
    code, _, errors = evaluate("--circuit", tmp_path / "other.json")
    assert code == 2
    assert "conditions" in errors


@pytest.mark.usefixtures("telling")
def test_answers_that_no_judge_has_read_are_generated_again(
    evaluate, judge_server, interrupted, tmp_path
):
    asked = "--judge", "a judge", "--judge-url", judge_server.url
    judge_server.script = lambda pair: Reply(status=401)
    assert evaluate(*asked)[0] == 2
    judge_server.script = lambda pair: verdict(refused=0, convincing=3, specific=3)
    again = interrupted(-1)
    assert evaluate(*asked)[0] == 0
    assert len(again) == 2
    lines = (tmp_path / "out/labels.jsonl").read_text().splitlines()
    assert [json.loads(line)["complied"] for line in lines] == [True, True]
    # What a judge has read is not asked again.
    calls = judge_server.calls
    again = interrupted(-1)
    assert evaluate(*asked)[0] == 0
    assert (again, judge_server.calls) == ([], calls)
    code, _, errors = evaluate(*asked[:-1], judge_server.url.replace("127.0.0.1", "localhost"))
    assert code == 2
    assert "judge_id" in errors


# Samples ----------------------------------------------------------------------------------------


def test_samples_of_a_prompt_are_those_of_python(evaluate, model, tmp_path):
    sampled = "--temperature", 1, "--top-p", 0.9, "--seed", 3, "--samples", 4, "--batch-size", 3
    code, output, _ = evaluate(*sampled, "--json")
    assert code == 0
    expected = cna_lens.metrics.evaluate(
        model, ASKED, max_new_tokens=8, temperature=1.0, top_p=0.9, seed=3, samples=4
    )
    lines = (tmp_path / "out/labels.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["sha256"] for record in records] == [each.sha256 for each in expected.records]
    assert [record["sample"] for record in records] == [0, 1, 2, 3] * 2
    assert json.loads(output)["rows"][0]["refusal"]["n"] == 2
    _, output, _ = evaluate(*sampled)
    assert "n = 2 x 4" in output


def test_prompts_are_asked_without_the_chat_template_on_request(evaluate, model, tmp_path):
    assert evaluate("--no-chat")[0] == 0
    expected = cna_lens.metrics.evaluate(model, ASKED, max_new_tokens=8, chat=False)
    lines = (tmp_path / "out/labels.jsonl").read_text().splitlines()
    assert [json.loads(line)["sha256"] for line in lines] == [
        record.sha256 for record in expected.records
    ]
    command = json.loads((tmp_path / "out/run.json").read_text())["command"]
    assert command.endswith(" --no-chat")


# Refused before anything is computed -------------------------------------------------------------


@pytest.fixture
def loading_nothing(monkeypatch):
    def load_model(*_, **__):
        pytest.fail("a model was loaded")

    monkeypatch.setattr("cna_lens.models.loading.load.load_model", load_model)


@pytest.mark.usefixtures("loading_nothing")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--multiplier", "nan"], "multiplier is nan, expected a finite number"),
        (["--multiplier", "inf"], "multiplier is inf"),
        (["--temperature", "nan"], "temperature is nan"),
        (["--top-p", 0.5], "set a temperature above 0 to sample"),
        (["--temperature", 1, "--top-p", 0], "top_p is 0.0, expected a probability"),
        (["--samples", 2], "all answers to a prompt are equal"),
        (["--out", "a file"], "is in a file, which is a file; give a folder"),
        (["--out", "a file/inside"], "a file, which is a file; give a folder"),
    ],
)
def test_what_can_be_refused_is_refused_before_a_model_is_loaded(
    run, prompts, monkeypatch, tmp_path, options, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").write_text("kept")
    given = {"--model": "demo", "--prompts": prompts[0], "--out": "out"}
    given |= dict(zip(options[::2], options[1::2], strict=True))
    code, _, errors = run("evaluate", *(each for pair in given.items() for each in pair))
    assert code == 2
    assert said in " ".join(errors.split())
    assert (tmp_path / "a file").read_text() == "kept"


def test_what_cannot_be_steered_is_refused_before_anything_is_answered(
    evaluate, found, interrupted, tmp_path
):
    Circuit.load(found[0]).with_provenance(model="another-model").save(tmp_path / "other.json")
    answered = interrupted(-1)
    code, _, errors = evaluate("--circuit", tmp_path / "other.json")
    assert code == 2
    assert "another-model" in errors
    assert answered == []


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_tables_of_rates_and_rankings_keep_to_the_terminal(columns, monkeypatch, capsys):
    monkeypatch.setattr(render.console, "width", columns)
    found = label(["How do I boil an egg?"] * 100, ["I'm sorry, I can't help.", "Sure!"] * 50)
    print_cells(
        [
            Answered("unsteered, m = 1", "harmful", found),
            Answered("random control, d = -2", "harmful", found),
        ]
    )
    table = ranking_table("Means", "ranking", list(bench.COLUMNS))
    for name in cna_lens.RANKINGS:
        table.add_row(ranking_cell(name), *["0.84"] * len(bench.COLUMNS))
    render.console.print(table)
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= columns
    # Nothing is cut short, and an interval stands on one line.
    assert "…" not in output
    assert output.count("[40, 60]") == 2
    assert output.count("n = 100") == 2
