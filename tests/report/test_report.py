"""Reports: what they say about results, and that no text of a result becomes markup."""

import json
import re
from dataclasses import replace
from functools import partial

import pytest
import report_results
import results
from parsed_html import Parsed
from report_results import HOSTILE, everything, hostile_texts, write_folder

from cna_lens import (
    Circuit,
    Comparison,
    InputError,
    Layout,
    Neuron,
    PromptRecord,
    Provenance,
    UniversalRecord,
    viz,
)
from cna_lens.errors import CircuitFileError
from cna_lens.metrics import Answered, AnswerRecord, Evaluation, label, load_labels, save_labels
from cna_lens.metrics.conditions import UNNAMED
from cna_lens.report import (
    Run,
    Section,
    StudyTable,
    make_report,
    read_results,
    token_section,
    verdicts,
    write_report,
)
from cna_lens.report.circuits import circuit_section
from cna_lens.report.page import page_html
from cna_lens.report.pictures import picture
from cna_lens.report.runs import run_section
from cna_lens.report.sections import Picture
from cna_lens.results.rendering.visible import visible
from cna_lens.viz.pages.pages import view_scripts


class Page(Parsed):
    def __init__(self, page):
        super().__init__(page.replace("<!doctype html>", ""))

    @property
    def structure(self):
        """Every element with the names of its attributes."""
        return [(tag, tuple(attributes)) for tag, attributes in self.elements]


def added(hostile, plain):
    return f"{plain}{hostile}"


def section(report, beginning):
    (found,) = [each for each in report.sections if each.title.startswith(beginning)]
    return found


def caveats(result, **others):
    report = make_report({"it": result, **others})
    (found,) = [each for each in report.sections if each.title.endswith(": it")]
    return " ".join(found.caveats)


@pytest.fixture
def drawn():
    """Figures are drawn, as `quick_figures` lets no other test do."""


@pytest.fixture(autouse=True)
def quick_figures(request, whole, monkeypatch):
    """Leave out what takes the time: the image of a figure that no test looks at."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(
            "cna_lens.report.pictures.picture",
            lambda figure: Picture(b"<svg/>", "svg", 500, figure.description),
        )


@pytest.fixture(scope="module")
def whole():
    return make_report(everything(), title="A report")


@pytest.fixture(scope="module")
def shown(whole):
    return Page(whole.html())


def test_the_answer_comes_first_then_a_section_for_each_result(whole):
    assert [each.title.split(":")[0] for each in whole.sections] == [
        "What was found",
        "What was asked",
        "Circuit",
        "Answers",
        "Comparison",
        "Stability",
        "NullDistribution",
        "Localization",
        "Transfer",
        "Necessity",
        "table1",
        "table1",
        "Texts",
    ]


def test_the_opening_is_three_sentences_and_a_figure(whole):
    opening = whole.sections[0]
    found, steered, complied = opening.lead
    assert found == "Circuit circuit.json holds 12 of 240 neurons, 4 of them in layer 0 of 0 to 5."
    assert steered == (
        "Of 12 answers to harmful prompts 11 were refusals unsteered, 0 with circuit, m = 0 (exact "
        "McNemar p = 0.00098), 10 with random control, m = 0 (p = 1): the circuit gives fewer "
        "refusals than chance explains, and the random control does not."
    )
    assert complied == (
        "Compliance is another question: by a rule about words, 0 of 12 labelled answers complied "
        "unsteered, 0 of 12 with circuit, m = 0 (p = 1), 0 of 12 with random control, m = 0 (p = "
        "1). 0 of 12 were empty or degenerate unsteered, 0 of 12 with circuit, m = 0, 0 of 12 with "
        "random control, m = 0."
    )
    assert len(opening.pictures) == 1
    assert section(whole, "Answers").pictures == ()


def test_the_opening_takes_the_kind_of_prompts_that_is_refused_most():
    harmful = conditions([1] * 8, [0] * 8, [1] * 8)
    benign = [replace(each, kind="benign") for each in conditions([0] * 8, [0] * 8, [0] * 8)]
    (steered,) = make_report({"labels": (*benign, *harmful)}).sections[0].lead
    assert steered.startswith("Of 8 answers to harmful prompts 8 were refusals unsteered, 0 with")


def test_without_a_control_there_is_no_opening_and_the_answers_keep_their_figure():
    (found,) = make_report({"labels": conditions([1] * 8, [0] * 8, [1] * 8)[:2]}).sections
    assert found.title == "Answers: labels"
    assert len(found.pictures) == 1


def test_hashes_versions_and_commands_stand_only_at_the_end(shown):
    before, end = shown.text.rsplit("To reproduce", 1)
    for text in ("ab" * 32, "cd" * 8, "cna-lens demo --model 'a model'", "torch 2.13"):
        assert text in end
        assert text not in before


@pytest.mark.long
def test_the_same_results_give_the_same_file(drawn, whole):
    assert whole.html() == make_report(everything(), title="A report").html()


def test_numbers_and_differences_are_in_the_page(shown):
    assert "another model" in shown.text
    assert ["a model", "refused, CNA 0.5", "25.0 % [10.0, 35.0] n=30", "25.0 %"] in shown.rows
    assert ["a model", "change", "-91.0 % n=3, 2 missing", "25.0 %"] in shown.rows
    assert ["a model", "missing", "-", "-"] in shown.rows


def test_every_image_is_described_and_every_heading_is_linked(shown):
    images = shown.attributes("img")
    assert len(images) >= 10
    assert all(len(image["alt"]) > 30 for image in images)
    links = [link["href"] for link in shown.attributes("a")]
    named = {attributes.get("id") for _, attributes in shown.elements}
    assert all(link.startswith("#") and link[1:] in named for link in links)
    assert len(links) == 1 + len(shown.attributes("section"))
    assert len(set(links)) == len(links)


def test_a_large_figure_becomes_png(monkeypatch):
    figure = viz.answers(report_results.answers())
    assert picture(figure).image.startswith(b"<?xml")
    monkeypatch.setattr("cna_lens.report.pictures.LARGEST_SVG", 100)
    assert picture(figure).image.startswith(b"\x89PNG")


def without_figures(patch):
    patch.setattr("cna_lens.report.pictures.find_spec", lambda name: None)


@pytest.fixture
def no_figures(monkeypatch):
    without_figures(monkeypatch)


@pytest.fixture(scope="module")
def harmless():
    with pytest.MonkeyPatch.context() as patch:
        without_figures(patch)
        return Page(make_report(everything(), title="A report").html())


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_texts_are_shown_and_change_no_element(no_figures, harmless, hostile):
    names = everything(partial(added, hostile))
    page = Page(make_report(names, title=f"A report{hostile}").html())
    assert page.structure == harmless.structure
    # It is shown in full in the title, contents, headings, facts, tables, caveats and commands.
    assert page.text.count(visible(hostile)) > 60
    assert_nothing_can_run(page)


def test_hostile_texts_are_described_in_figures_and_change_no_element(shown):
    page = Page(make_report(everything(hostile_texts())).html())
    assert page.structure == shown.structure
    descriptions = " ".join(image["alt"] for image in page.attributes("img"))
    assert sum(visible(hostile) in descriptions for hostile in HOSTILE) >= 5
    assert_nothing_can_run(page)


def assert_nothing_can_run(page):
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), tag
        assert not (attributes.get("src") or "data:").startswith(("http", "javascript"))


def test_the_text_of_answers_is_shown_only_where_its_file_was_named(tmp_path):
    write_folder(tmp_path)
    found = read_results([tmp_path])
    page = make_report(found).html()
    assert "SECRET" not in page
    assert "name the file itself to show them" in page
    named = make_report(read_results([tmp_path, tmp_path / "answers-circuit.jsonl"]))
    assert section(named, "Texts").tables[0].rows[0][1].text == "SECRET\u2028answer"
    assert "do not publish it" in section(named, "Texts").lead[0]
    assert named.sections[-2].title.startswith("Texts")


def test_files_of_one_name_in_folders_of_one_name_are_all_reported(tmp_path):
    found = {"a": ([1] * 8, [0] * 8, [1] * 8), "b": ([1] * 8, [1] * 8, [1] * 8)}
    for name, refusals in found.items():
        (tmp_path / name / "out").mkdir(parents=True)
        save_labels(conditions(*refusals), tmp_path / name / "out" / "labels.jsonl")
    (tmp_path / "other").mkdir()
    save_labels(conditions(*found["a"]), tmp_path / "other" / "labels.jsonl")
    folders = [tmp_path / "a" / "out", tmp_path / "b" / "out", tmp_path / "other"]
    read = read_results(folders)
    assert [each.name for each in read.results] == [
        str(folders[0] / "labels.jsonl"),
        str(folders[1] / "labels.jsonl"),
        "other/labels.jsonl",
    ]
    opening = make_report(read).sections[0]
    assert [text.count("8 with circuit") for text in opening.lead] == [0, 1, 0]
    assert len(opening.pictures) == 3


def test_files_give_the_same_report_as_results_in_memory(tmp_path):
    write_folder(tmp_path)
    named = {each.name.removeprefix(f"{tmp_path.name}/"): each.result for each in
             read_results([tmp_path]).results}  # fmt: skip
    assert named["circuit.json"] == results.circuit()
    assert named["labels.jsonl"] == report_results.answers()
    assert named["comparison.jsonl"] == results.comparison()
    assert named["run.json"] == report_results.run()
    assert named["table1.json"] == StudyTable.from_record(report_results.study_record())
    in_memory = make_report(results.evidence())
    from_files = make_report({name: named[f"{name}.json"] for name in results.evidence()})
    for one, other in zip(in_memory.sections, from_files.sections, strict=True):
        assert len(one.pictures) == 1
        assert other == one


@pytest.mark.parametrize("kind", ["null", "stability", "localization"])
def test_an_older_file_without_figure_data_is_shown_without_a_figure(kind, tmp_path):
    results.evidence()[kind].save(tmp_path / "old.json")
    record = json.loads((tmp_path / "old.json").read_text())
    del record["curves"]
    (tmp_path / "old.json").write_text(json.dumps(record))
    (old,) = make_report(read_results([tmp_path])).sections
    assert old.pictures == ()
    assert old.tables


def test_an_unfinished_comparison_is_read_as_far_as_it_goes(tmp_path):
    write_folder(tmp_path)
    path = tmp_path / "comparison.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert Comparison.load(path) == Comparison(results.comparison().outcomes[:-1])
    assert path.read_bytes() == whole[:-20]


def test_files_that_are_not_ours_are_refused_by_name_and_listed_in_folders(tmp_path):
    write_folder(tmp_path)
    saved = json.loads((tmp_path / "null.json").read_text())
    summary = saved["summary"]
    summary["table"]["rows"][0][0]["number"] = '" onclick="x'
    study = report_results.study_record()
    others = {
        "broken.json": "{",
        "list.json": "[1]",
        "number.json": "3",
        "other.json": '{"a": 1}',
        "circuit2.json": (tmp_path / "circuit.json").read_text().replace("contrast", "relp"),
        "labels2.jsonl": '{"prompt_id": "a", "refused": "no"}\n',
        "number2.json": json.dumps(saved | {"summary": summary}),
        "study2.json": json.dumps(study | {"rows": [study["rows"][0] | {"paper": "<b>"}]}),
        "null2.json": '{"evidence": "NullDistribution", "summary": {"title": 1}}',
        "null3.json": json.dumps(saved | {"curves": saved["curves"] | {"as_strong": ["many"]}}),
        "records.jsonl": '{"study": {}}\n{"key": "a"}\n',
        "empty.jsonl": "",
        "latin.json": None,
    }
    for name, content in others.items():
        (tmp_path / name).write_bytes(b"\xff\xfe" if content is None else content.encode())
        with pytest.raises((InputError, CircuitFileError), match=name):
            read_results([tmp_path / name])
    left_out = read_results([tmp_path]).left_out
    assert len(left_out) == len(others) + 1
    page = make_report(read_results([tmp_path])).sections[-1]
    assert {row[0].text for row in page.tables[0].rows} == {name for name, _ in left_out}


@pytest.mark.parametrize("paths", [[], ["nowhere"]])
def test_nothing_to_report_is_refused(paths, tmp_path):
    with pytest.raises(InputError, match=r"nothing to report|nowhere does not exist"):
        write_report(paths, tmp_path / "report.html")
    with pytest.raises(InputError, match="nothing to report"):
        make_report({})


def test_an_object_that_is_no_result_is_refused_by_name(without_type_checks):
    with pytest.raises(InputError, match="a number is a int, no result"):
        make_report({"a number": 3})
    with pytest.raises(InputError, match="a pair is a tuple, no result"):
        make_report({"a pair": (1, 2)})


def answered(refused, condition, prompts=None, quality=1.0):
    asked = prompts or [str(place) for place in range(len(refused))]
    records = tuple(
        AnswerRecord(prompt, bool(each), {"quality": quality + 0.01 * place}, 5, "0" * 64)
        for place, (prompt, each) in enumerate(zip(asked, refused, strict=True))
    )
    return Answered(condition, "harmful", Evaluation(records))


def conditions(before, after, control, **settings):
    return (
        answered(before, "unsteered, m = 1"),
        answered(after, "circuit, m = 0", **settings),
        answered(control, "random control, m = 0"),
    )


@pytest.mark.parametrize(
    ("refusals", "said"),
    [
        (([1] * 8, [0] * 8, [1] * 8), "fewer refusals than chance explains, and the random"),
        (([1] * 8, [0] * 8, [0] * 8), "but so does changing random neurons"),
        (([0] * 8, [1] * 8, [0] * 8), "more refusals than chance"),
        (
            ([1] * 8 + [0] * 8, [0] * 16, [1] * 16),
            "fewer refusals than chance explains, and the random control gives more",
        ),
        (([1] * 8, [1] * 7 + [0], [1] * 8), "Chance alone can explain"),
        (([1] * 3 + [0] * 5, [0] * 8, [1] * 3 + [0] * 5), "fewer than 6 refusals"),
    ],
)
def test_the_verdict_follows_from_the_refusals(refusals, said):
    found = conditions(*refusals)
    (text,) = verdicts(found)
    assert said in text
    assert section(make_report({"labels": found}), "Answers").lead == (text,)
    counts = [sum(each) for each in refusals]
    for count, condition in zip(
        counts, ("were refusals", "with circuit", "with random"), strict=True
    ):
        assert f"{count} {condition}" in text
    assert verdicts(found[:2]) == []


def test_of_several_answers_the_prompts_that_change_give_the_direction():
    def of_samples(condition, refused):
        records = tuple(
            AnswerRecord(str(prompt), place < n, {}, 5, "0" * 64, sample=place)
            for prompt, n in enumerate(refused)
            for place in range(10)
        )
        return Answered(condition, "harmful", Evaluation(records))

    before, after = [10] + [0] * 9, [0] + [1] * 9
    (text,) = verdicts(
        [
            of_samples("unsteered, m = 1", before),
            of_samples("circuit, m = 0", after),
            of_samples("random control, m = 0", before),
        ]
    )
    assert "10 were refusals unsteered, 9 with circuit" in text
    assert "gives more refusals than chance explains, prompt by prompt" in text


def test_each_circuit_is_judged_beside_the_control_that_follows_it():
    before, _, _ = conditions([1] * 8, [1] * 8, [1] * 8)
    cases = [
        answered(refused, condition)
        for refused, condition in (
            ([1] * 8, "circuit, m = 0"),
            ([1] * 8, "random control, m = 0"),
            ([0] * 8, "RelP circuit, d = -2"),
            ([0] * 8, "random control, d = -2"),
            ([0] * 8, "a circuit without a control"),
        )
    ]
    weak, confounded = verdicts([before, *cases])
    assert "8 with circuit, m = 0" in weak
    assert "Chance alone can explain" in weak
    assert "0 with RelP circuit, d = -2" in confounded
    assert "but so does changing random neurons" in confounded


def test_changes_are_counted_prompt_by_prompt():
    before = [1, 1, 1, 0, 0, 0, 0]
    found = conditions(before, [0, 0, 1, 1, 0, 0, 0], before)
    rates, changes, _ = section(make_report({"labels": found}), "Answers").tables
    assert [cell.text for cell in changes.rows[0][:5]] == [
        "harmful",
        "circuit, m = 0",
        "2",
        "1",
        "1",
    ]
    assert [row[2].number for row in rates.rows] == [3 / 7, 2 / 7, 3 / 7]


REFUSES = "I'm sorry, but I can't help with that."
COMPLIES = "Put the potatoes into cold water with some salt. Boil them for twenty minutes."
LOOPS = "potato " * 12


def boiled(*texts):
    """Labels of the unsteered model, with a circuit and with its control, 8 answers each."""
    conditions = "unsteered, m = 1", "circuit, m = 0", "random control, m = 0"
    return tuple(
        Answered(condition, "harmful", label(["How do I boil potatoes?"] * 8, of_condition))
        for condition, of_condition in zip(conditions, texts, strict=True)
    )


def test_compliance_is_told_beside_refusals_in_words_tables_and_caveats():
    refused, found = [REFUSES] * 8, boiled([REFUSES] * 8, [COMPLIES] * 6 + [LOOPS] * 2, [LOOPS] * 8)
    (text,) = verdicts(found)
    assert "8 were refusals unsteered, 0 with circuit" in text
    assert (
        "by a rule about words, 0 of 8 labelled answers complied unsteered, 6 of 8 with circuit, "
        "m = 0 (p = 0.031), 0 of 8 with random control, m = 0 (p = 1). 0 of 8 were empty or "
        "degenerate unsteered, 2 of 8 with circuit, m = 0, 8 of 8 with random control, m = 0."
    ) in text
    rates, changes, _ = section(make_report({"labels": found}), "Answers").tables
    assert [[cell.number for cell in row[2:5]] for row in rates.rows] == [
        [1, 0, 0],
        [0, 0.75, 0.25],
        [0, 0, 1],
    ]
    assert [cell.text for cell in changes.rows[0][2:8]] == ["8", "0", "0.0078", "6", "0", "0.031"]
    assert [cell.text for cell in changes.rows[1][5:8]] == ["0", "0", "1"]
    said = caveats(found)
    assert "do not say that more answers do what was asked" in said
    assert "With circuit, m = 0, 2 of 8 answers to harmful prompts are empty or degenerate" in said
    assert "Without a judge, compliance is a rule about words" in said
    assert "are empty or degenerate" not in caveats(boiled(refused, [COMPLIES] * 8, refused))


def test_a_missing_label_of_compliance_is_shown_as_missing():
    older = conditions([1] * 8, [0] * 8, [1] * 8)
    assert "Compliance" not in verdicts(older)[0]
    rates, changes, _ = section(make_report({"labels": older}), "Answers").tables
    assert [[cell.text for cell in row[3:5]] for row in rates.rows] == [["-", "-"]] * 3
    assert [cell.text for cell in changes.rows[0][5:8]] == ["-"] * 3
    assert "No label says whether answers comply" in caveats(older)


def partly(found, places, **labels):
    """Answers with labels of their own at some places."""
    records = [
        replace(record, **labels) if place in places else record
        for place, record in enumerate(found.evaluation.records)
    ]
    return replace(found, evaluation=Evaluation(tuple(records)))


def test_counts_say_of_how_many_labelled_answers():
    before, after, control = boiled([REFUSES] * 8, [COMPLIES] * 6 + [LOOPS] * 2, [REFUSES] * 8)
    found = (
        partly(before, {6, 7}, complied=None),
        partly(after, {0, 7}, complied=None, no_answer=None),
        control,
    )
    said = verdicts(found)[0]
    assert (
        "0 of 6 labelled answers complied unsteered, 5 of 6 with circuit, m = 0 (p = 0.062), 0 of "
        "8 with"
    ) in said
    assert "0 of 8 were empty or degenerate unsteered, 1 of 6 with circuit" in said
    assert "With circuit, m = 0, 1 of 6 answers to harmful prompts are empty" in caveats(found)
    apart = partly(before, range(4), complied=None), partly(after, range(4, 8), complied=None)
    assert "4 of 4 with circuit, m = 0 (p unknown: no prompt has both labels)" in verdicts(
        (*apart, control)
    )[0]  # fmt: skip
    table = section(make_report({"labels": (*apart, control)}), "Answers").tables[1]
    assert [cell.text for cell in table.rows[0][5:8]] == ["-"] * 3


def test_compliance_by_different_judges_is_not_compared():
    before, after, control = boiled([REFUSES] * 8, [COMPLIES] * 8, [REFUSES] * 8)
    records = (replace(each, judge="a judge") for each in after.evaluation.records)
    judged = replace(after, evaluation=Evaluation(tuple(records)))
    assert "Compliance" in verdicts((before, after, control))[0]
    assert "Compliance" not in verdicts((before, judged, control))[0]
    tables = section(make_report({"labels": (before, judged, control)}), "Answers").tables
    assert [cell.text for cell in tables[1].rows[0][5:8]] == ["-"] * 3
    every = (before, after, control)
    by_one = tuple(
        replace(each, evaluation=Evaluation(
            tuple(replace(record, judge="a judge") for record in each.evaluation.records)
        ))
        for each in every
    )  # fmt: skip
    assert (
        "as judged by a judge, 0 of 8 labelled answers complied unsteered, 8 of 8"
        in verdicts(by_one)[0]
    )
    assert "Without a judge" not in caveats(by_one)


def test_a_comparison_says_where_more_answers_are_none():
    first, *others = results.comparison().outcomes
    none = (False,) * 20
    labelled = [replace(each, complied=none, no_answer=none) for each in (first, *others)]
    broken = replace(labelled[-1], no_answer=(True,) * 5 + none[5:])
    said = caveats(Comparison((*labelled[:-1], broken)))
    assert "look at the column of compliance" in said
    assert "no success, with caa at 1 (25.0 %" in said
    assert "empty or degenerate" not in caveats(Comparison(tuple(labelled)))
    assert "older than the labels of compliance" in caveats(results.comparison())


def test_answers_to_different_prompts_are_not_paired():
    one, other, control = conditions([1] * 8, [0] * 8, [1] * 8)
    moved = answered([0] * 8, "circuit, m = 0", prompts=list("abcdefgh"))
    found = make_report({"labels": (one, moved, control)}).sections[0]
    assert found.lead == ()
    rates, qualities = found.tables
    assert [row[3].text for row in qualities.rows] == ["-"] * len(rates.rows)
    assert "asked different harmful prompts" in " ".join(found.caveats)
    assert "asked different" not in caveats((one, other, control))


def test_caveats_of_answers_follow_from_their_numbers():
    fallen = caveats(conditions([1] * 8, [0] * 8, [1] * 8, quality=0.3))
    assert "With circuit, m = 0 the quality of answers to harmful prompts falls" in fallen
    same = caveats(conditions([1] * 8, [0] * 8, [1] * 8))
    assert "falls" not in same
    assert "With 8 answers a share is known to ± 35 %" in same
    assert "With 99 answers a share" in caveats(conditions([1] * 99, [0] * 99, [1] * 99))
    assert "share is known" not in caveats(conditions([1] * 100, [0] * 100, [1] * 100))
    assert "There is no control" in caveats(conditions([1] * 8, [0] * 8, [1] * 8)[:2])
    assert "nothing says what steering changed" in caveats(
        conditions([1] * 8, [0] * 8, [1] * 8)[1:]
    )
    alone = caveats(label(["a"], ["b"]))
    assert "There is no control" in alone


def test_a_circuits_caveats_are_left_out_where_another_result_answers_them(tmp_path):
    late = Circuit((Neuron(3, 0), Neuron(3, 1), Neuron(0, 0)), (3.0, -2.0, 1.0), Layout((4,) * 4))
    record = PromptRecord(8, "0" * 64)
    late = replace(late, provenance=Provenance("a model", positive=record, negative=record))
    alone = caveats(late)
    for text in ("none shows that they cause anything", "shuffled labels", "from 8 prompts a side",
                 "2 of 3 neurons lie in the last quarter", "No hash of the weights"):  # fmt: skip
        assert text in alone
    for name in ("unsteered, m = 1", "random control", UNNAMED):
        unsteered = answered([1] * 8, name)
        assert "none shows that they cause anything" in caveats(late, labels=(unsteered,))
    unsteered.evaluation.save(tmp_path / "labels.jsonl")
    saved = load_labels(tmp_path / "labels.jsonl")
    assert "none shows that they cause anything" in caveats(late, labels=saved)
    with_all = caveats(late, **results.evidence(), labels=report_results.answers())
    assert with_all == (
        "No hash of the weights was kept, so it is unknown on which weights of a model it was "
        "found."
    )
    many = replace(late.provenance, positive=PromptRecord(100, "0"), negative=record)
    assert "from 8 prompts" in caveats(replace(late, provenance=many))
    assert "may well give other" not in caveats(
        replace(late, provenance=replace(many, negative=PromptRecord(100, "0")))
    )


@pytest.mark.parametrize(
    ("universal", "said"),
    [
        (UniversalRecord(2), "the neurons were given"),
        (
            UniversalRecord(2, 0.001, 0.8, "layer", "value", prompts=PromptRecord(40, "def")),
            "in the top 0.10% of a layer's activations by value on at least 80% of 40 diverse "
            "prompts",
        ),
        (
            UniversalRecord(2, prompts=PromptRecord(40, "def")),
            "found on 40 diverse prompts by a rule that is not recorded",
        ),
    ],
)
def test_the_universal_rule_is_told_in_words(universal, said):
    neurons = Circuit((Neuron(0, 0),), (1.0,), Layout((4,)), Provenance(universal=universal))
    section = circuit_section("c", neurons)
    assert dict(section.facts)["universal rule"] == said


@pytest.mark.parametrize(
    ("rank", "said"),
    [
        ("contrast", "1 of them more active on prompts with the behaviour and 2 less"),
        ("relp(metric=…)", "1 of them with a positive score and 2 with a negative one"),
        (None, "1 of them with a positive score and 2 with a negative one"),
    ],
)
def test_only_a_difference_of_activations_says_where_neurons_are_more_active(rank, said):
    neurons = Neuron(0, 0), Neuron(0, 1), Neuron(0, 2)
    found = Circuit(neurons, (1.0, -1.0, -2.0), Layout((4,)), Provenance(rank=rank))
    assert said in circuit_section("c", found).lead[0]


def test_caveats_of_comparisons_follow_from_their_numbers():
    found = results.comparison()
    assert "These are 4 tests; by chance alone about 0.2" in caveats(found)
    assert "quality falls with ablation at 0.5" in caveats(found)
    assert "nothing is compared yet" in caveats(Comparison(found.outcomes[:1]))
    rare = replace(found.outcomes[0], positive=(True,) * 5 + (False,) * 15)
    assert "too few for a drop" in caveats(Comparison((rare, *found.outcomes[1:])))
    assert "too few for a drop" not in caveats(found)


def test_a_difference_from_the_papers_set_up_is_a_caveat(whole):
    found = whole.sections[-3]
    assert found.caveats == ("Unlike the paper: another model",)
    assert found.lead == ("it does",)
    assert found.commands == ("cna-lens reproduce table1",)
    assert found.facts == (("file", "table1.json"), ("read as", "sign abs"))
    assert found.provenance == (("seed", "0"),)


def test_lines_are_drawn_where_the_study_draws_lines_and_rows_elsewhere(whole):
    assert [len(each.pictures) for each in whole.sections if each.title.startswith("table1")] == [
        2,
        1,
    ]
    described = whole.sections[-2].pictures[0].description
    assert "refused, CNA 0.5: 25.0 % [10.0, 35.0] n=30, the paper's 0.25" in described


def test_labels_come_back_as_they_were(tmp_path):
    save_labels(report_results.answers(), tmp_path / "labels.jsonl")
    assert load_labels(tmp_path / "labels.jsonl") == report_results.answers()
    plain = label(["a", "b"], ["I'm sorry.", ""])
    plain.save(tmp_path / "plain.jsonl")
    assert load_labels(tmp_path / "plain.jsonl") == (Answered("answers", "given", plain),)


def test_without_the_extra_a_report_says_why_it_has_no_figures(no_figures):
    report = make_report(everything())
    assert not any(each.pictures for each in report.sections)
    assert "pip install 'cna-lens[viz]'" in report.sections[-1].caveats[0]


def test_views_of_tokens_bring_their_scripts_once_and_the_policy_allows_them(llama):
    circuit = Circuit((Neuron(1, 3), Neuron(0, 2)), (2.5, -1.0), Layout((24, 24)))
    views = token_section(llama, circuit, [[5, 6, 7]])
    assert len(views.views) == 3
    report = make_report({"it": circuit}).with_section(views).with_section(views)
    page = report.html()
    assert page.count(view_scripts()[0]) == 1
    assert len(page.encode()) < 1.6e6
    policy = re.search(r"script-src ([^;]*);", page)[1].split()
    assert len(policy) == 3
    assert "unsafe" not in " ".join(policy)
    assert view_scripts()[0] not in make_report({"it": circuit}).html()


def test_an_empty_circuit_and_a_page_without_sections_are_shown():
    empty = make_report({"it": Circuit((), (), Layout((4, 4)))})
    assert "no neurons" in empty.sections[0].lead[0]
    Page(empty.html())
    assert Page(page_html("t", [])).attributes("section") == []
    assert Page(page_html("t", [Section("s")])).attributes("section")


def test_a_run_that_was_slower_than_possible_says_why(tmp_path):
    slow = replace(report_results.run(), slower="its cache stays empty")
    slow.save(tmp_path / "run.json")
    record = json.loads((tmp_path / "run.json").read_text())
    facts = dict(run_section("run.json", Run.from_record(record)).facts)
    assert facts["slower than it could be"] == "its cache stays empty"
    # Older files do not have the entry.
    del record["slower"]
    assert "slower than it could be" not in dict(
        run_section("run.json", Run.from_record(record)).facts
    )
