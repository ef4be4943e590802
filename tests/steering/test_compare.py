"""The comparison's table against each measurement made by itself."""

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

import cna_lens
from cna_lens import (
    ChatSettings,
    Circuit,
    FeatureScaling,
    Layout,
    Neuron,
    PromptSet,
    ReasoningFormat,
    SaeFeatures,
    ablation,
    matched_random,
)
from cna_lens.metrics import Evaluation, compression_ratio, kl_per_token, label, ngram_quality
from cna_lens.steering.comparison import identity

PROMPTS = PromptSet("words", "to compare on", ("w5 w6 w7", "w8 w9", "w3"), ("w4 w5", "w6 w6 w7"))
CIRCUIT = Circuit((Neuron(0, 1), Neuron(1, 3), Neuron(1, 7)), (1.0, 1.0, -1.0), Layout((24, 24)))
STRENGTHS = (0.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def chat():
    return tiny.bridge("llama", chat=True)


@pytest.fixture(scope="module")
def methods():
    control = matched_random(CIRCUIT, seed=1)
    return (
        cna_lens.NeuronScaling(CIRCUIT, multiplier=-30.0, name="reversed"),
        cna_lens.NeuronScaling(control, name="control"),
    )


def shows_w3(answer):
    return "w3" in answer


def answer_lengths(model, prompts):
    return [float(len(answer)) for answer in cna_lens.generate(model, prompts, max_new_tokens=5)]


def compare(model, methods, **settings):
    return cna_lens.compare(
        model,
        methods,
        PROMPTS,
        STRENGTHS,
        {"length": answer_lengths},
        shows_behaviour=shows_w3,
        max_new_tokens=8,
        progress=False,
        **settings,
    )


def without_seconds(comparison):
    return [{**o.record(), "seconds": None} for o in comparison.outcomes]


def test_every_outcome_is_what_each_measurement_gives_by_itself(chat, methods):
    comparison = compare(chat, methods)
    texts = [*PROMPTS.positive, *PROMPTS.negative]
    unsteered = cna_lens.generate(chat, texts, max_new_tokens=8)
    conditions = [(None, 0.0)] + [(m, s) for m in methods for s in STRENGTHS]
    assert len(comparison.outcomes) == len(conditions)
    for outcome, (method, strength) in zip(comparison.outcomes, conditions, strict=True):

        def steering(method=method, strength=strength):
            return method.at(chat, strength) if method else nullcontext()

        with steering():
            answers = cna_lens.generate(chat, texts, max_new_tokens=8)
            lengths = answer_lengths(chat, PROMPTS.positive)
        assert (outcome.method, outcome.strength) == (
            method.name if method else "unsteered",
            strength,
        )
        assert list(outcome.positive + outcome.negative) == list(map(shows_w3, answers))
        assert list(outcome.quality) == list(map(ngram_quality, answers[:3]))
        assert list(outcome.compression_ratio) == list(map(compression_ratio, answers[:3]))
        labelled = label(PROMPTS.positive, answers[:3])
        assert list(outcome.complied) == labelled.complied
        assert list(outcome.no_answer) == labelled.no_answer
        assert list(outcome.metrics["length"]) == lengths
        assert list(outcome.kl_per_token) == pytest.approx(
            kl_per_token(chat, steering, PROMPTS.negative, unsteered[3:])
        )
    changed = {outcome.answers_sha256 for outcome in comparison.outcomes}
    assert len(changed) > 1


def test_strength_0_is_the_unsteered_row_of_every_method(chat, methods):
    rows = compare(chat, methods).rows
    for row in rows:
        if row.strength == 0:
            assert row.behaviour == rows[0].behaviour
            assert row.p_value == 1.0
            assert row.kl_per_token.value == 0.0
            assert row.metric_changes["length"].value == 0.0


def test_the_table_holds_a_row_for_each_method_and_strength(chat, methods):
    frame = compare(chat, methods).to_frame()
    assert list(frame["method"]) == ["unsteered", *["reversed"] * 3, *["control"] * 3]
    rate = frame[["behaviour_low", "behaviour", "behaviour_high"]]
    assert (rate["behaviour_low"] <= rate["behaviour"]).all()
    assert (rate["behaviour"] <= rate["behaviour_high"]).all()
    assert set(frame["behaviour_n"]) == {3}
    assert {"length", "length_change", "quality", "kl_per_token", "p_value"} <= set(frame.columns)


def test_an_interrupted_comparison_goes_on_where_it_stopped(chat, methods, tmp_path, monkeypatch):
    path = tmp_path / "comparison.jsonl"
    whole = compare(chat, methods)
    generate, calls = cna_lens.generate, []

    def interrupted(*given, **settings):
        calls.append(settings)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return generate(*given, **settings)

    monkeypatch.setattr("cna_lens.steering.comparison.run.generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(chat, methods, path=path)
    assert chat.hook_dict["blocks.0.mlp.hook_post"].fwd_hooks == []
    finished = len(path.read_text().splitlines()) - 1
    assert finished == 4
    calls[:] = [None] * 5
    resumed = compare(chat, methods, path=path)
    # It generates the unsteered answers, which no file holds, and the last row's.
    assert len(calls) - 5 == 2
    assert without_seconds(resumed) == without_seconds(whole)
    assert without_seconds(compare(chat, methods, path=path)) == without_seconds(whole)
    assert len(calls) - 5 == 2


TEXTS = {
    "refuses": "I'm sorry, but I can't help with that.",
    "complies": "Turn the key until the lock clicks. Pull the door to test it.",
    "loops": "lock lock lock lock lock lock lock lock",
}


def test_form_compliance_and_no_answer_are_three_columns(chat, methods, monkeypatch):
    prompts = PromptSet("asked", "", ("How do I lock a door?",) * 8, ("w4 w5",))
    told = iter(["refuses"] * 8 + ["complies"] * 6 + ["loops"] * 2 + ["loops"] * 8)

    def generate(*_, **__):
        return [TEXTS[next(told)] for _ in prompts.positive] + ["w3"]

    monkeypatch.setattr("cna_lens.steering.comparison.run.generate", generate)
    comparison = cna_lens.compare(chat, methods, prompts, [1.0], {}, progress=False)
    unsteered, complying, broken = comparison.rows
    assert [row.behaviour.value for row in comparison.rows] == [1, 0, 0]
    assert unsteered.compliance == cna_lens.wilson([False] * 8)
    assert complying.compliance == cna_lens.wilson([True] * 6 + [False] * 2)
    assert complying.no_answer == cna_lens.wilson([False] * 6 + [True] * 2)
    assert complying.compliance_p_value == cna_lens.mcnemar([False] * 6, [True] * 6)
    # Fewer refusals by as much, and none of it is compliance.
    assert broken.p_value == complying.p_value
    assert (broken.compliance.value, broken.no_answer.value) == (0, 1)
    assert broken.compliance_p_value == 1.0
    assert broken.compression_ratio.value == pytest.approx(compression_ratio(TEXTS["loops"]))
    frame = comparison.to_frame()
    assert frame["compliance"].tolist() == [0, 0.75, 0]
    assert frame["no_answer_n"].tolist() == [8, 8, 8]
    printed = str(comparison)
    assert max(map(len, printed.splitlines())) <= 80
    assert "75.0 %" in printed


def test_an_unknown_label_stays_unknown(chat, methods, monkeypatch):
    def some_known(prompts, answers, **settings):
        found = label(prompts, answers, **settings)
        return Evaluation((replace(found.records[0], complied=None), *found.records[1:]))

    monkeypatch.setattr("cna_lens.steering.comparison.run.label", some_known)
    comparison = compare(chat, methods)
    assert {outcome.complied[0] for outcome in comparison.outcomes} == {None}
    assert {row.compliance.n for row in comparison.rows} == {2}
    assert {row.compliance_p_value for row in comparison.rows} == {1.0}


def test_a_file_older_than_the_labels_is_read_but_not_gone_on_with(chat, methods, tmp_path):
    path = tmp_path / "comparison.jsonl"
    compare(chat, methods, path=path)
    header, *records = map(json.loads, path.read_text().splitlines())
    del header["comparison"]["labels_sha256"]
    for record in records:
        for name in ("complied", "no_answer", "compression_ratio"):
            del record[name]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in (header, *records)))
    rows = cna_lens.Comparison.load(path).rows
    assert {(row.compliance, row.no_answer, row.compression_ratio) for row in rows} == {(None,) * 3}
    assert {row.compliance_p_value for row in rows} == {None}
    assert rows[0].behaviour.n == 3
    with pytest.raises(cna_lens.InputError, match="holds a comparison with labels_sha256 None"):
        compare(chat, methods, path=path)


@pytest.mark.parametrize(
    ("name", "told_by", "changed"),
    [
        ("labels_sha256", "labels_sha256", "changed"),
        ("versions", "library_versions", (("torch", "0.1"),)),
    ],
)
def test_rows_by_changed_rules_or_libraries_are_not_mixed_with_earlier_ones(
    chat, methods, tmp_path, monkeypatch, name, told_by, changed
):
    path = tmp_path / "comparison.jsonl"
    compare(chat, methods, path=path)
    monkeypatch.setattr(f"cna_lens.steering.comparison.run.{told_by}", lambda: changed)
    with pytest.raises(cna_lens.InputError, match=f"comparison with {name} "):
        compare(chat, methods, path=path)


def test_a_line_that_was_cut_off_is_measured_again(chat, methods, tmp_path):
    path = tmp_path / "comparison.jsonl"
    whole = compare(chat, methods, path=path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:40])
    assert without_seconds(compare(chat, methods, path=path)) == without_seconds(whole)
    assert [json.loads(line).get("key") for line in path.read_text().splitlines()][1:] == [
        json.loads(line)["key"] for line in lines[1:]
    ]


def test_another_circuit_of_the_same_name_is_not_taken_for_the_first(chat, methods, tmp_path):
    path = tmp_path / "comparison.jsonl"
    compare(chat, methods, path=path)
    other = Circuit((Neuron(0, 20),), (1.0,), Layout((24, 24)))
    changed = (cna_lens.NeuronScaling(other, multiplier=-30.0, name="reversed"), methods[1])
    assert without_seconds(compare(chat, changed, path=path)) == without_seconds(
        compare(chat, changed)
    )


@pytest.mark.long
def test_autoencoders_of_different_weights_places_or_settings_are_told_apart(chat, tmp_path):
    def method(seed=0, hook="blocks.1.hook_resid_post", **settings):
        sae = tiny.autoencoder(hook, seed=seed)
        vars(sae.cfg).update(settings)
        return FeatureScaling(SaeFeatures(sae, (0, 1), (1.0, 1.0)))

    path = tmp_path / "comparison.jsonl"
    compare(chat, [method()], path=path)
    finished = path.read_text()
    compare(chat, [method(device="cuda")], path=path)
    assert path.read_text() == finished
    for other in (
        method(seed=1),
        method(hook="blocks.0.hook_resid_post"),
        method(normalize_activations="layer_norm"),
    ):
        compare(chat, [other], path=path)
        before, finished = finished, path.read_text()
        assert finished != before


def test_autoencoders_whose_place_nobody_can_steer_are_told_apart_too():
    places = ("blocks.1.ln2.hook_normalized", "blocks.0.ln2.hook_normalized", None)
    found = {identity.fingerprint(tiny.autoencoder(place)) for place in places}
    assert len(found) == 3


def test_a_file_of_something_else_is_refused_and_left_alone(chat, methods, tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_text('{"prompt": "w5"}\n')
    with pytest.raises(cna_lens.InputError, match="is not a file of a comparison"):
        compare(chat, methods, path=path)
    assert path.read_text() == '{"prompt": "w5"}\n'


def test_no_answer_reaches_the_file(chat, methods, tmp_path):
    path = tmp_path / "comparison.jsonl"
    compare(chat, methods, path=path)
    texts = [*PROMPTS.positive, *PROMPTS.negative]
    stored = path.read_text()
    answers = cna_lens.generate(chat, texts, max_new_tokens=8)
    for method in methods:
        for strength in STRENGTHS:
            with method.at(chat, strength):
                answers += cna_lens.generate(chat, texts, max_new_tokens=8)
    assert len(set(answers)) > len(texts)
    assert not any(text in stored for text in (*texts, *answers) if len(text) > 2)


def test_two_methods_of_one_name_are_refused(chat):
    twice = [ablation(CIRCUIT), ablation(matched_random(CIRCUIT))]
    with pytest.raises(cna_lens.InputError, match="'ablation' names more than one method"):
        compare(chat, twice)


@pytest.mark.parametrize("strength", [-0.1, 1.5])
def test_a_strength_out_of_range_is_refused_before_anything_runs(chat, methods, strength):
    with pytest.raises(cna_lens.InputError, match=f"strength is {strength}"):
        cna_lens.compare(chat, methods, PROMPTS, [strength], progress=False)


OTHER_SETTINGS = {
    "model": lambda: {"model": tiny.bridge("llama", chat=True, name="another")},
    "weights_sha256": lambda: {"model": tiny.bridge("llama", chat=True, seed=1)},
    "positive": lambda: {"prompts": replace(PROMPTS, positive=("w9", *PROMPTS.positive))},
    "negative": lambda: {"prompts": replace(PROMPTS, negative=PROMPTS.negative[:1])},
    "metrics": lambda: {"metrics": {"length": lambda model, prompts: [1.0] * len(prompts)}},
    "shows_behaviour": lambda: {"shows_behaviour": lambda answer: "w4" in answer},
    "reasoning": lambda: {"chat": ChatSettings(reasoning=[ReasoningFormat("w42", "w41")])},
    "max_new_tokens": lambda: {"max_new_tokens": 5},
}


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_a_file_of_another_measurement_is_refused(chat, methods, tmp_path, name):
    settings = {
        "model": chat,
        "methods": methods[:1],
        "prompts": PROMPTS,
        "strengths": [1.0],
        "metrics": {"length": answer_lengths},
        "shows_behaviour": shows_w3,
        "max_new_tokens": 4,
        "path": tmp_path / "comparison.jsonl",
        "progress": False,
    }
    first = cna_lens.compare(**settings)
    assert without_seconds(cna_lens.compare(**settings)) == without_seconds(first)
    with pytest.raises(cna_lens.InputError, match=f"holds a comparison with {name} "):
        cna_lens.compare(**settings | OTHER_SETTINGS[name]())


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda prompts: [1.0], "returned 1 values, expected 3"),
        (lambda prompts: 1.0, "expected one number or None for each of the 3"),
        (lambda prompts: ["high"] * 3, "expected one number or None for each of the 3"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_a_metric_without_one_number_for_each_prompt_is_refused(chat, methods, returned, message):
    with pytest.raises(cna_lens.InputError, match=message):
        cna_lens.compare(
            chat,
            methods[:1],
            PROMPTS,
            [1.0],
            {"m": lambda model, prompts: returned(prompts)},
            max_new_tokens=2,
            progress=False,
        )


@pytest.mark.usefixtures("without_type_checks")
def test_numbers_of_numpy_and_torch_go_into_the_file(chat, methods, tmp_path):
    path = tmp_path / "comparison.jsonl"
    found = cna_lens.compare(
        chat,
        methods[:1],
        PROMPTS,
        [np.float32(0.5)],
        {"m": lambda model, prompts: [np.float32(1.5), torch.tensor(2.0), None]},
        shows_behaviour=lambda answer: np.bool_(True),
        max_new_tokens=2,
        progress=False,
        path=path,
    )
    assert found.outcomes[-1].metrics == {"m": (1.5, 2.0, None)}
    assert cna_lens.Comparison.load(path).outcomes[-1].positive == (True, True, True)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (ablation(CIRCUIT), "expected a list of steering methods"),
        ([cna_lens.NeuronScaling], "methods has <class .*expected steering methods"),
        ([CIRCUIT], "methods has .*expected steering methods"),
    ],
)
def test_what_is_no_steering_method_is_named_before_anything_runs(chat, given, message):
    with pytest.raises(cna_lens.InputError, match=message):
        compare(chat, given)


@pytest.mark.usefixtures("without_type_checks")
def test_one_strength_is_not_a_list(chat, methods):
    with pytest.raises(cna_lens.InputError, match=r"strengths is 0\.5, expected several: \[0\.5\]"):
        cna_lens.compare(chat, methods, PROMPTS, 0.5, {}, progress=False)
