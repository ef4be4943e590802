import json
import shutil
from collections import Counter

import pytest
from hypothesis import given, strategies as st

import cna_lens
from cna_lens import InputError
from cna_lens.metrics import mmlu
from cna_lens.metrics.tasks.mmlu_sample import draw_questions

pytestmark = pytest.mark.usefixtures("data_sets_offline")
SIZES = {"anatomy": 7, "virology": 4, "world_religions": 2}


@pytest.fixture
def data_set(tmp_path):
    """Three subjects in the layout of cais/mmlu on the Hub."""
    folder, card = tmp_path / "mmlu", ["---", "configs:"]
    place = 0
    for subject, size in SIZES.items():
        card += [f"- config_name: {subject}", "  data_files:"]
        (folder / subject).mkdir(parents=True)
        for split, count in (("test", size), ("dev", 5)):
            rows = []
            for _ in range(count):
                place += 1
                choices = [f"w{place + i}" for i in range(4)]
                rows.append({"question": f"w{place}", "choices": choices, "answer": place % 4})
            file = f"{subject}/{split}-00000-of-00001.jsonl"
            (folder / file).write_text("\n".join(map(json.dumps, rows)))
            card += [f"  - split: {split}", f"    path: {subject}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return folder


def ask(model, data_set, **settings):
    return mmlu(model, data_set=data_set, subjects=list(SIZES), **settings)


def test_the_drawn_questions_of_all_subjects_form_one_result(llama, data_set):
    result = ask(llama, data_set, n=9, seed=2)
    drawn = draw_questions({f"mmlu_{name}": size for name, size in SIZES.items()}, 9, seed=2)
    assert result.ids == tuple(f"{name}:{i}" for name, places in drawn.items() for i in places)
    assert len(set(result.ids)) == len(set(result.hashes)) == result.n == 9
    assert (result.task, result.metric, result.seed, result.version) == ("mmlu", "acc", 2, "1.0")
    # The tiny model reads every letter as the same unknown word; among equals, the first wins.
    answers = [
        json.loads((data_set / name[5:] / "test-00000-of-00001.jsonl").read_text().split("\n")[i])
        for name, places in drawn.items()
        for i in places
    ]
    assert result.values == tuple(float(row["answer"] == 0) for row in answers)


def test_folders_of_the_same_name_are_distinguished(llama, data_set, tmp_path):
    other = tmp_path / "another mirror" / data_set.name
    shutil.copytree(data_set, other)
    for file in other.glob("*/test-*"):
        rows = [json.loads(line) | {"answer": 0} for line in file.read_text().splitlines()]
        file.write_text("\n".join(map(json.dumps, rows)))
    first, second = (ask(llama, folder, n=None) for folder in (data_set, other))
    assert first.score.value < 1
    assert second.score.value == 1


def test_a_smaller_draw_agrees_with_a_larger_one(llama, data_set):
    whole = ask(llama, data_set, n=None)
    assert whole.n == sum(SIZES.values())
    some = ask(llama, data_set, n=6)
    values, hashes = dict(zip(whole.ids, whole.values, strict=True)), set(whole.hashes)
    assert some.values == tuple(values[name] for name in some.ids)
    assert set(some.hashes) < hashes


def test_worked_examples_come_before_the_questions(llama, data_set):
    plain, worked = (ask(llama, data_set, n=3, num_fewshot=k) for k in (0, 1))
    assert plain.ids == worked.ids
    assert not set(plain.hashes) & set(worked.hashes)
    assert worked.num_fewshot == 1


@pytest.mark.real_model
def test_the_answer_is_the_likeliest_letter(demo, tmp_path):
    folder = tmp_path / "mmlu"
    (folder / "anatomy").mkdir(parents=True)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: anatomy\n  data_files:\n"
        "  - split: test\n    path: test.jsonl\n  - split: dev\n    path: test.jsonl\n---\n"
    )
    choices = ["Heart", "Liver", "Ear", "Knee"]
    rows = [
        {"question": f"Which part of the body {does}?", "choices": choices, "answer": answer}
        for answer, does in enumerate(("pumps blood", "makes bile"))
    ]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    right = []
    for row in rows:
        listed = "\n".join(f"{a}. {c}" for a, c in zip("ABCD", choices, strict=True))
        text = (
            "The following are multiple choice questions (with answers) about anatomy.\n\n"
            f"{row['question']}\n{listed}\nAnswer:"
        )
        logits = demo(demo.to_tokens(text, prepend_bos=True))[0, -1]
        letters = [demo.tokenizer.encode(f" {a}", add_special_tokens=False)[0] for a in "ABCD"]
        right.append(float(logits[letters].argmax() == row["answer"]))
    result = mmlu(demo, n=None, subjects=["anatomy"], data_set=folder)
    assert result.values == tuple(right)
    assert result.score == cna_lens.wilson([value == 1 for value in right])


@given(
    st.dictionaries(st.sampled_from(sorted(SIZES)), st.integers(1, 9), min_size=1),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_draws_are_distinct_nested_and_determined_by_the_seed(sizes, seed, data):
    total = sum(sizes.values())
    larger = data.draw(st.integers(1, total))
    smaller = data.draw(st.integers(1, larger))
    drawn, part = draw_questions(sizes, larger, seed), draw_questions(sizes, smaller, seed)
    assert sum(map(len, drawn.values())) == larger
    for subject, places in drawn.items():
        assert places == sorted(set(places))
        assert 0 <= places[0] <= places[-1] < sizes[subject]
    assert all(set(places) <= set(drawn[subject]) for subject, places in part.items())
    backwards = dict(reversed(sizes.items()))
    assert draw_questions(backwards, larger, seed) == drawn


def test_every_question_is_as_likely_as_any_other():
    counts = Counter(
        (subject, place)
        for seed in range(4000)
        for subject, places in draw_questions(SIZES, 4, seed).items()
        for place in places
    )
    assert len(counts) == sum(SIZES.values())
    expected = 4000 * 4 / 13
    # The tolerance is five standard deviations of a count.
    assert all(abs(count - expected) < 5 * (expected * 9 / 13) ** 0.5 for count in counts.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 14}, "n is 14, expected 1 to 13"),
        ({"n": 0}, "n is 0, expected 1 to 13"),
        ({"num_fewshot": 6}, "num_fewshot is 6, MMLU has 5"),
        ({"subjects": ["alchemy"]}, "no subject 'alchemy'; it has: abstract_algebra, anatomy"),
        ({"subjects": "anatomy"}, "subjects is 'anatomy', expected a list"),
        ({"subjects": []}, "subjects is "),
    ],
)
def test_invalid_draws_are_rejected(llama, data_set, settings, message):
    with pytest.raises(InputError, match=message):
        mmlu(llama, **{"data_set": data_set, "subjects": list(SIZES)} | settings)


@pytest.mark.parametrize("source", ["cais/mmlu", "a-folder-that-is-not-there"])
def test_a_missing_data_set_raises_an_error_with_instructions(llama, source):
    with pytest.raises(InputError, match=r"hf download cais/mmlu .* --local-dir mmlu"):
        mmlu(llama, n=5, data_set=source, subjects=["anatomy"])
