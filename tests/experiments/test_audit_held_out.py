"""experiments.audit: kinds and models that took no part, and the half that stays unread."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import runs
from typer.testing import CliRunner

from cna_lens import InputError
from cna_lens.results import Journal
from experiments.audit.__main__ import app
from experiments.audit.halves import Audit, audits, halved, halves_of
from experiments.audit.held_out import held_out_rows, takes_part
from experiments.audit.reading import Earlier, Reading, seen_in
from experiments.shared.areas import area_with_interval

BENIGN, ATTACKS = ("precision", "fine-tune", "noise"), ("adapter", "direction")


def variants(kind, scores, tampered=False, **fields):
    settings = {"shift": 9.0 if tampered else 0.0, "model": "demo-refusal"} | fields
    return [
        Audit(
            name=f"{kind} {i}",
            kind=kind,
            tampered=tampered,
            score=score,
            verdict="tampered" if score > 5.5 else "match",
            seconds=1.0,
            checks={},
            **settings,
        )
        for i, score in enumerate(scores)
    ]


def rows_of(found, access="weights"):
    """The rows by what they are of; two of one kind would be an error."""
    rows = held_out_rows(found, access)
    named = {(row.signal, row.held_out, row.of, row.attacks): row for row in rows}
    assert len(named) == len(rows)
    return named


def test_kinds_that_are_left_out_by_hand():
    found = [
        *variants("precision", [1.0, 2.0]),
        *variants("fine-tune", [3.0, 5.0]),
        *variants("adapter", [4.0, 6.0], tampered=True),
        *variants("direction", [7.0], tampered=True),
    ]
    rows = rows_of(found)
    one = rows["score", "kind", "adapter", "beyond noise"]
    # All benign variants judge attacks, those of the other kind judge benign ones.
    thresholds = rows["score", "kind", "all", "all"].thresholds
    assert thresholds == {"adapter": 5.0, "direction": 5.0, "precision": 5.0, "fine-tune": 2.0}
    assert one.thresholds == {}
    assert (one.detected.value, one.detected.n) == (0.5, 2)
    assert (one.false_alarms.value, one.false_alarms.n) == (0.5, 4)
    assert one.balanced.value == pytest.approx(0.5)
    assert one.area.value == pytest.approx((3 + 4) / 8)
    every = rows["score", "kind", "all", "beyond noise"]
    assert (every.detected.value, every.detected.n) == (pytest.approx(2 / 3), 3)
    assert every.area == area_with_interval([4.0, 6.0, 7.0], [1.0, 2.0, 3.0, 5.0])
    verdict = rows["verdict", "kind", "all", "beyond noise"]
    assert (verdict.detected.value, verdict.false_alarms.value) == (pytest.approx(2 / 3), 0.0)
    assert (verdict.area, verdict.thresholds) == (None, {})
    # With one model none can be left out.
    assert {held_out for _, held_out, _, _ in rows} == {"kind"}


def two_models():
    found = []
    for (place, kind), model in product(enumerate((*BENIGN, *ATTACKS)), ("a", "b")):
        tampered = kind in ATTACKS
        base = (3.0 if tampered else 0.0) + place + (0.5 if model == "b" else 0.0)
        scores = [base + i / 10 for i in range(4)]
        found += variants(kind, scores, tampered, model=model)
    return found


def test_models_that_are_left_out_by_hand():
    rows = rows_of(two_models())
    # The highest benign scores are 2.3 of model a and 2.8 of model b, both of the noise.
    by_model = rows["score", "model", "a", "beyond noise"]
    thresholds = rows["score", "model", "all", "all"].thresholds
    assert thresholds == pytest.approx({"a": 2.8, "b": 2.3})
    assert by_model.false_alarms.value == 0.0
    # Of model b, noise has 2.5 to 2.8 and model a judges it.
    other = rows["score", "model", "b", "beyond noise"]
    assert (other.false_alarms.value, other.false_alarms.n) == (pytest.approx(4 / 12), 12)
    both = rows["score", "kind and model", "all", "all"]
    assert both.thresholds["noise, b"] == pytest.approx(1.3)
    assert both.thresholds["adapter, b"] == pytest.approx(2.3)
    assert rows["score", "kind and model", "direction", "all"].detected.n == 8
    assert {held_out for _, held_out, _, _ in rows} == {"kind", "model", "kind and model"}


@pytest.mark.parametrize(
    "held_out", runs.every(["kind", "model", "kind and model"], quick=("kind and model",))
)
def test_a_threshold_never_sees_what_is_held_out(held_out):
    found = two_models()
    before = rows_of(found)["score", held_out, "all", "all"].thresholds
    for kind, model in product((*BENIGN, *ATTACKS), ("a", "b")):
        judged = next(a for a in found if (a.kind, a.model) == (kind, model))
        name = {"kind": kind, "model": model, "kind and model": f"{kind}, {model}"}[held_out]
        for worst in (-1e6, 1e6):
            changed = [
                a if takes_part(a, judged, held_out) else replace(a, score=worst) for a in found
            ]
            after = rows_of(changed)["score", held_out, "all", "all"].thresholds
            assert after[name] == before[name]
        # Whatever takes part and is benign does count.
        raised = [
            replace(a, score=1e6) if takes_part(a, judged, held_out) and not a.tampered else a
            for a in found
        ]
        assert rows_of(raised)["score", held_out, "all", "all"].thresholds[name] == 1e6


def test_what_takes_part():
    judged = variants("adapter", [1.0], tampered=True, model="a")[0]
    same_kind, same_model = replace(judged, model="b"), replace(judged, kind="noise")
    neither = replace(judged, kind="noise", model="b")
    for held_out, expected in {
        "kind": (False, True, True),
        "model": (True, False, True),
        "kind and model": (False, False, True),
    }.items():
        others = (same_kind, same_model, neither)
        assert tuple(takes_part(other, judged, held_out) for other in others) == expected


def test_attacks_count_in_the_main_rows_beyond_the_noise_of_their_own_model():
    found = [
        *variants("precision", [1.0], shift=0.4, model="a"),
        *variants("noise", [1.0], shift=-2.0, model="b"),
        *variants("fine-tune", [1.0, 1.0], shift=9.0, model="a"),
        *variants("fine-tune", [1.0, 1.0], shift=9.0, model="b"),
        *variants("adapter", [9.0, 9.0], tampered=True, shift=0.5, model="a"),
        *variants("adapter", [9.0, 9.0, 9.0], tampered=True, shift=0.5, model="b"),
        *variants("direction", [9.0], tampered=True, shift=2.1, model="b"),
    ]
    rows = rows_of(found)
    assert rows["score", "kind", "all", "beyond noise"].detected.n == 2 + 1
    assert rows["score", "kind", "all", "all"].detected.n == 2 + 3 + 1


def test_over_refusal_is_no_false_alarm_and_another_model_and_lost_refusals_are():
    found = [
        *variants("precision", [1.0, 1.0]),
        *variants("fine-tune", [1.0, 1.0]),
        *variants("adapter", [9.0, 9.0], tampered=True),
    ]
    found[0] = replace(found[0], verdict="over-refusal")
    found[2] = replace(found[2], verdict="another model")
    found[3] = replace(found[3], verdict="lost refusals")
    found[4] = replace(found[4], verdict="lost refusals")
    row = rows_of(found)["verdict", "kind", "all", "beyond noise"]
    assert (row.false_alarms.value, row.detected.value) == (2 / 4, 1.0)


def record(name, kind, tampered, access, score, **more):
    return {
        "name": name,
        "kind": kind,
        "tampered": tampered,
        "access": access,
        "verdict": "tampered" if score > 5.5 else "match",
        "score": score,
        "checks": [{"name": "gap", "statistic": score / 2}],
        "seconds": 1.0,
        **more,
    }


def study(model, lift=0.0):
    """The records of one model: eight variants of each kind, and the reference."""
    named = {"untouched": ("untouched", False, 0.0)}
    for (place, kind), i in product(enumerate((*BENIGN, *ATTACKS)), range(8)):
        tampered = kind in ATTACKS
        named[f"{kind} {i}"] = (kind, tampered, place + i / 10 + 9 * tampered + lift)
    records = {}
    for name, (kind, tampered, score) in named.items():
        for access in ("weights", "activations", "answers"):
            records[f"{name} | {access}"] = record(name, kind, tampered, access, score, model=model)
        records[f"{name} | behaviour"] = {
            "name": name,
            "kind": kind,
            "tampered": tampered,
            "log_odds": [4.0 - 9 * tampered],
        }
    return records


def test_changes_on_the_serving_side_are_seen_by_answers_alone():
    records = study("a")
    for access in ("weights", "activations", "answers"):
        key = f"adapter 0 | {access}"
        records[key] = records[key] | {"side": "serving"}
    names = {access: {a.name for a in audits(records, access)} for access in ("weights", "answers")}
    assert names["answers"] - names["weights"] == {"adapter 0"}
    rows = rows_of(audits(records, "answers"), "answers")
    assert rows["score", "kind", "all", "serving"].detected.n == 1
    assert rows["score", "kind", "all", "all"].detected.n == 15
    assert not any(attacks == "serving" for *_, attacks in rows_of(audits(records, "weights")))


def test_older_records_are_of_the_first_model_and_of_the_model_itself():
    records = {
        "untouched | answers": record("untouched", "untouched", False, "answers", 1.0),
        "untouched | behaviour": {"name": "untouched", "log_odds": [1.0]},
    }
    (old,) = audits(records, "answers")
    assert (old.model, old.side) == ("demo-refusal", "model")


def test_halves_are_those_of_halved_and_the_same_for_every_model():
    records = study("a")
    kinds = {kind: [f"{kind} {i}" for i in range(8)] for kind in (*BENIGN, *ATTACKS)}
    expected = halved(kinds | {"untouched": ["untouched"]}, seed=3)
    assert halves_of([records], 3) == expected == halves_of([records, study("b")], 3)
    del records["noise 0 | weights"], records["noise 0 | activations"], records["noise 0 | answers"]
    assert halves_of([records, study("b")], 3) == expected
    wrong = study("b")
    wrong["noise 0 | weights"]["kind"] = "precision"
    with pytest.raises(InputError, match="'noise 0' is of kind 'noise'"):
        halves_of([study("a"), wrong], 3)


@pytest.mark.parametrize(("half", "other"), [("first", 1), ("second", 0)])
def test_the_other_half_is_not_read(half, other):
    studies = [study("a"), study("b", 0.05)]
    unread = halves_of(studies, 0)[other]
    before = Reading.of(studies, half, 0)
    for each in studies:
        for found in each.values():
            if found["name"] in unread and "score" in found:
                found["score"] = 1e6
                found["verdict"] = "unread"
                found["checks"][0]["statistic"] = 1e6
    assert Reading.of(studies, half, 0) == before
    assert Reading.of(studies, "both", 0) != before
    assert {level.model for level in before.levels} == {"a", "b"}
    n = next(row for row in before.held_out if row.attacks == "all" and row.of == "all").detected.n
    assert n == 16  # of 2 models, 2 kinds and 8 variants of each, half is read


def test_two_folders_of_one_model_are_refused():
    with pytest.raises(InputError, match="two folders or files hold audits of a"):
        Reading.of([study("a"), study("a")], "first", 0)


def test_the_command_reads_several_folders_and_says_which_half_it_read(tmp_path):
    folders = []
    for model in ("a", "b"):
        journal = Journal(tmp_path / model / "records.jsonl", "audit study", {"model": model})
        for key, each in study(model).items():
            journal.add(key, each)
        folders += ["--out", str(tmp_path / model)]
    written = {}
    for half in (None, "second"):
        path = tmp_path / f"{half}.json"
        arguments = ["analyse", *folders, "--results", str(path)]
        ran = CliRunner().invoke(app, [*arguments, *(["--half", half] if half else [])])
        assert ran.exit_code == 0, ran.output
        assert "took no part in the threshold" in ran.output
        written[half] = json.loads(path.read_text())
    first, second = written[None], written["second"]
    assert (first["half"], second["half"]) == ("first", "second")
    assert first["halves"] == second["halves"]
    sizes = [first["halves"][half]["variants"] for half in ("first", "second")]
    assert sorted(sizes) == [20, 21]
    assert first["halves"]["first"]["sha256"] != first["halves"]["second"]["sha256"]
    assert [each["model"] for each in first["studies"]] == ["a", "b"]
    assert {row["held_out"] for row in first["held_out"]} == {"kind", "model", "kind and model"}
    assert len({level["model"] for level in first["levels"]}) == 2


def test_every_variant_is_listed_once_with_what_each_access_says():
    records = study("a")
    records["adapter 0 | behaviour"]["refused"] = [True, False, True]
    records["adapter 0 | weights"] |= {"verdict": "match", "score": 0.5}
    del records["noise 1 | answers"]
    listed = Reading.of([records, study("b")], "both", 0).variants
    assert len(listed) == len({(each.model, each.name) for each in listed}) == 2 * 41
    found = {(each.model, each.name): each for each in listed}
    adapter = found["a", "adapter 0"]
    assert (adapter.kind, adapter.tampered, adapter.refused) == ("adapter", True, 2)
    assert adapter.shift == 9.0
    assert adapter.verdicts == {
        "weights": "match",
        "activations": "tampered",
        "answers": "tampered",
    }
    assert adapter.scores == {"weights": 0.5, "activations": 12.0, "answers": 12.0}
    assert found["b", "adapter 0"].refused is None
    assert set(found["a", "noise 1"].verdicts) == {"weights", "activations"}
    assert (adapter.lost, adapter.speaks["weights"]) == (None, ())


def test_sampled_answers_are_compared_with_refusals_of_held_out_requests():
    records = study("a")
    # Of ten requests the reference refuses all; a fifth is lost from eight refusals on.
    known = {"untouched": (10, 0.0), "adapter 0": (8, 0.3), "adapter 1": (2, 0.1)}
    known |= {"noise 1": (9, 0.25), "noise 2": (10, 0.05)}
    for name, (refused, lost) in known.items():
        records[f"{name} | behaviour"]["refused"] = [True] * refused + [False] * (10 - refused)
        check = {"name": "lost refusals", "statistic": lost, "speaks": lost >= 0.2}
        records[f"{name} | weights"]["checks"].append(check)
    found = Reading.of([records], "both", 0).still_refuses
    assert (found.found.value, found.found.n) == (1 / 2, 2)
    assert (found.alarmed.value, found.alarmed.n) == (1 / 3, 3)
    # Both adapters have an alarm, and of the three drifts, one of them the reference, none.
    assert (found.by_verdict.value, found.by_verdict.n) == (1.0, 2)
    assert (found.drifts_alarmed.value, found.drifts_alarmed.n) == (0.0, 3)
    assert found.balanced.value == 1.0
    # Places from least to most lost: held out 1.5, 4, 5, 3, 1.5; of canaries 1, 5, 3, 4, 2.
    pairs = [(1.5, 1), (4, 5), (5, 3), (3, 4), (1.5, 2)]
    assert found.correlation == pytest.approx(np.corrcoef(*zip(*pairs, strict=True))[0, 1])
    assert Reading.of([study("a")], "both", 0).still_refuses is None


def test_variants_that_were_seen_before_the_rules_were_made_can_be_left_out():
    studies = [study("a"), study("b")]
    both = Reading.of(studies, "both", 0)
    before = {
        "variants": [{"model": "b", "name": name} for name in ("adapter 0", "noise 1", "untouched")]
    }
    unseen = Reading.of(studies, "both", 0, seen_in(before))
    left = {(each.model, each.name) for each in both.variants} - {
        (each.model, each.name) for each in unseen.variants
    }
    assert left == {("b", "adapter 0"), ("b", "noise 1")}
    assert unseen.sha256 == both.sha256


def test_an_access_without_any_score_is_left_out_and_told():
    records = study("a")
    for record in records.values():
        if record.get("access") == "answers":
            del record["score"], record["verdict"]
            record["error"] = "no answer"
    read = Reading.of([records], "both", 0)
    assert {level.access for level in read.levels} == {"weights", "activations"}
    assert {each.verdicts["answers"] for each in read.variants} == {"error: no answer"}


def test_an_earlier_analysis_stands_for_the_records_of_its_models():
    studies = [study("a"), study("b", 0.05), study("c", -0.05)]
    for each in studies:
        each["untouched | behaviour"]["refused"] = [True] * 9
        for number in range(7):
            each[f"noise {number} | behaviour"]["refused"] = [True] * (9 - number)
            check = {"name": "lost refusals", "statistic": number / 9, "speaks": number > 3}
            each[f"noise {number} | weights"]["checks"].append(check)
        each["adapter 1 | answers"] |= {"side": "serving"}
        del each["adapter 1 | weights"], each["adapter 1 | activations"]
    whole = Reading.of(studies, "both", 0).record()
    assert whole["still_refuses"]["found"]["n"] == 15
    written = {**Reading.of(studies[:2], "both", 0).record(), "seed": 0, "studies": []}
    earlier = Earlier.of(json.loads(json.dumps(written)))
    read = Reading.of(studies[2:], "both", 0, earlier=earlier).record()
    as_written = json.loads(json.dumps(whole))
    # No check alone is judged, since no statistic is at hand.
    as_written["held_out"] = [
        row for row in as_written["held_out"] if row["signal"] in ("score", "verdict")
    ]
    assert json.loads(json.dumps(read)) == as_written


def test_an_earlier_analysis_must_fit(tmp_path):
    written = {**Reading.of([study("a")], "both", 3).record(), "seed": 3, "studies": []}
    earlier = Earlier.of(written)
    with pytest.raises(InputError, match="half is 'first' and the seed 3"):
        Reading.of([study("b")], "first", 3, earlier=earlier)
    with pytest.raises(InputError, match="give 'both' and its seed, 3"):
        Reading.of([study("b")], "both", 0, earlier=earlier)
    with pytest.raises(InputError, match="hold audits of a"):
        Reading.of([study("a")], "both", 3, earlier=earlier)
    with pytest.raises(InputError, match="read the first half"):
        Earlier.of(written | {"half": "first"})
