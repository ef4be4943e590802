import dataclasses

import harness_tasks
import pytest
import tiny
import torch

import cna_lens
from cna_lens import CnaLensWarning, InputError, Neuron
from cna_lens.metrics import TaskResult, run_lm_eval

WIDTHS = cna_lens.Layout((tiny.WIDTH, tiny.WIDTH))
EVERYTHING = cna_lens.Circuit(
    tuple(Neuron(layer, index) for layer in range(2) for index in range(tiny.WIDTH)),
    (1.0,) * 2 * tiny.WIDTH,
    WIDTHS,
)
CHOICES = harness_tasks.random_choices(24)
FACTS = [
    ("The capital of France is", ["Berlin", "Paris"], 1),
    ("The opposite of hot is", ["very tall", "cold"], 1),
    ("Two plus two equals", ["four", "house"], 0),
]


@pytest.fixture(autouse=True)
def offline(tmp_path_factory):
    with harness_tasks.data_sets_offline(tmp_path_factory.mktemp("datasets")):
        yield


@pytest.fixture
def folder(tmp_path):
    return harness_tasks.multiple_choice(tmp_path / "tasks", CHOICES)


def right_by_hand(model, rows):
    """Whether the right choice has the highest log-probability, in plain forward passes."""
    right = []
    for question, choices, answer in rows:
        sums = []
        for choice in choices:
            prompt = model.tokenizer(question)["input_ids"]
            ids = model.tokenizer(f"{question} {choice}")["input_ids"]
            assert ids[: len(prompt)] == prompt
            with torch.no_grad():
                logprobs = model(torch.tensor([ids]))[0].log_softmax(-1)
            sums.append(sum(float(logprobs[i - 1, ids[i]]) for i in range(len(prompt), len(ids))))
        right.append(float(max(range(len(sums)), key=sums.__getitem__) == answer))
    return tuple(right)


def steered(model, circuit, via):
    return cna_lens.steer(model, circuit, 0.0, via=via, allow_other_model=True)


def test_accuracy_is_what_the_models_log_probabilities_give(model, folder):
    result = run_lm_eval(model, "choice", include_path=folder)["choice/acc"]
    assert result.values == right_by_hand(model, CHOICES)
    assert 0 < sum(result.values) < 24
    assert result.score == cna_lens.wilson([value == 1 for value in result.values])
    assert result.ids == tuple(f"choice:{place}" for place in range(24))
    assert len(set(result.hashes)) == 24
    assert (result.version, result.num_fewshot, result.n) == ("1.5", 0, 24)


def test_steering_by_weights_and_by_hooks_count_alike_and_end_with_their_context(model, folder):
    def accuracy():
        return run_lm_eval(model, "choice", include_path=folder)["choice/acc"].values

    before = accuracy()
    by_way = {}
    for via in ("weights", "hooks"):
        with steered(model, EVERYTHING, via):
            by_way[via] = accuracy()
            assert by_way[via] == right_by_hand(model, CHOICES)
    assert by_way["weights"] == by_way["hooks"] != before
    assert accuracy() == before


@pytest.mark.real_model
def test_a_real_model_is_scored_as_by_hand_steered_or_not(demo, tmp_path):
    folder = harness_tasks.multiple_choice(tmp_path / "tasks", FACTS)
    layout = cna_lens.Layout((1536,) * 30)
    circuit = cna_lens.Circuit(
        tuple(Neuron(layer, index) for layer in range(4) for index in range(1536)),
        (1.0,) * 4 * 1536,
        layout,
    )

    def accuracy():
        return run_lm_eval(demo, "choice", include_path=folder)["choice/acc"].values

    before = accuracy()
    assert before == right_by_hand(demo, FACTS)
    assert sum(before) >= 2
    by_way = {}
    for via in ("weights", "hooks"):
        with steered(demo, circuit, via):
            by_way[via] = accuracy()
    with steered(demo, circuit, "hooks"):
        assert right_by_hand(demo, FACTS) == by_way["weights"] == by_way["hooks"]
    assert by_way["hooks"] != before


def answers(model, questions, max_new_tokens):
    ids = model.tokenizer(questions)["input_ids"]
    return cna_lens.generate(model, ids, max_new_tokens=max_new_tokens)


@pytest.mark.parametrize(("multiplier", "via"), [(1.0, "auto"), (0.0, "weights"), (0.0, "hooks")])
def test_an_exact_match_is_an_answer_that_generate_gives_too(llama, tmp_path, multiplier, via):
    questions = [f"w{50 + i} w{39 + 2 * i} w{38 - i}" for i in range(6)]
    with cna_lens.steer(llama, EVERYTHING, multiplier, via=via):
        rows = [
            (question, answer if place % 3 else "w3 w3 w3")
            for place, (question, answer) in enumerate(
                zip(questions, answers(llama, questions, 3), strict=True)
            )
        ]
        folder = harness_tasks.exact_match(tmp_path / "tasks", rows)
        result = run_lm_eval(llama, ["exact"], include_path=folder)["exact/exact_match"]
    assert result.values == (0, 1, 1, 0, 1, 1)


def test_single_positions_are_steered_while_answers_are_generated(llama, tmp_path):
    questions = ["w59 w6 w7", "w30 w31", "w40 w9 w51 w4"]

    def steering():
        return cna_lens.steer(llama, EVERYTHING, 0.0, positions="generated")

    with steering():
        expected = answers(llama, questions, 4)
    assert expected != answers(llama, questions, 4)
    rows = list(zip(questions, expected, strict=True))
    folder = harness_tasks.exact_match(tmp_path / "tasks", rows, max_new_tokens=4)
    with steering():
        result = run_lm_eval(llama, "exact", include_path=folder)["exact/exact_match"]
    assert result.values == (1, 1, 1)


def test_single_positions_are_refused_where_prompt_and_answer_come_together(llama, folder):
    with (
        cna_lens.steer(llama, EVERYTHING, 0.0, positions="last_prompt"),
        pytest.raises(InputError, match="choice is scored on prompt and answer in one pass"),
    ):
        run_lm_eval(llama, "choice", include_path=folder)


def test_examples_keep_their_own_names_in_whatever_order_they_are_asked_for(llama, folder):
    whole = run_lm_eval(llama, "choice", include_path=folder)["choice/acc_norm"]
    some = run_lm_eval(llama, {"choice": [9, 2, 5]}, include_path=folder)["choice/acc_norm"]
    assert some.ids == ("choice:2", "choice:5", "choice:9")
    assert some.hashes == tuple(whole.hashes[place] for place in (2, 5, 9))
    assert some.values == tuple(whole.values[place] for place in (2, 5, 9))


def test_a_limit_takes_the_first_examples(llama, folder):
    whole = run_lm_eval(llama, "choice", include_path=folder)["choice/acc"]
    first = run_lm_eval(llama, "choice", include_path=folder, limit=5)["choice/acc"]
    assert (first.ids, first.values) == (whole.ids[:5], whole.values[:5])


@pytest.mark.parametrize("batch_size", [1, 5, "auto"])
def test_the_batch_size_changes_no_value(llama, folder, batch_size):
    whole = run_lm_eval(llama, "choice", include_path=folder)
    assert run_lm_eval(llama, "choice", include_path=folder, batch_size=batch_size) == whole


def test_worked_examples_are_drawn_by_seed(llama, folder):
    def run(seed, num_fewshot=2):
        return run_lm_eval(
            llama, "choice", include_path=folder, num_fewshot=num_fewshot, seed=seed
        )["choice/acc"]

    assert run(3) == run(3)
    assert (run(3).num_fewshot, run(3).seed) == (2, 3)
    assert run(3).hashes != run(4).hashes
    assert run(3).hashes != run(3, num_fewshot=1).hashes


def test_prompts_can_go_through_the_chat_template(folder):
    model = tiny.bridge("llama", chat=True)
    # lm-eval puts the choice right behind the template, and real ones end with a line break.
    line = ("assistant{% endif", "assistant\n{% endif")
    model.tokenizer.chat_template = tiny.TEMPLATE.replace(*line)
    plain, chat = (
        run_lm_eval(model, "choice", include_path=folder, limit=2, chat=chat)["choice/acc"]
        for chat in (False, True)
    )
    assert chat.ids == plain.ids
    assert not set(chat.hashes) & set(plain.hashes)


@pytest.mark.real_model
def test_a_bos_token_can_be_left_out(demo, tmp_path, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    seen = []
    score = HFLM._model_call
    monkeypatch.setattr(
        HFLM, "_model_call", lambda self, ids: seen.append(ids[0].tolist()) or score(self, ids)
    )
    folder = harness_tasks.multiple_choice(tmp_path / "tasks", FACTS[:1])
    for add_bos_token in (None, True, False):
        run_lm_eval(demo, "choice", include_path=folder, add_bos_token=add_bos_token)
    bos = demo.tokenizer.bos_token_id
    with_bos, always, without = (run[0] for run in (seen[:1], seen[1:2], seen[2:3]))
    assert with_bos == always == [bos, *without]


def test_a_group_gives_the_results_of_its_tasks(llama, folder):
    harness_tasks.multiple_choice(folder, CHOICES[:3], name="other")
    (folder / "both.yaml").write_text("group: both\ntask: [choice, other]\n")
    results = run_lm_eval(llama, "both", include_path=folder)
    assert set(results) == {"choice/acc", "choice/acc_norm", "other/acc", "other/acc_norm"}
    assert [result.n for result in results.values()] == [24, 24, 3, 3]
    assert results["other/acc"].values == results["choice/acc"].values[:3]


def test_a_filter_is_part_of_the_metrics_name(llama, tmp_path):
    filters = [
        {"name": name, "filter": [{"function": "take_first"}]} for name in ("strict", "loose")
    ]
    folder = harness_tasks.exact_match(tmp_path / "tasks", [("w5", "w7")], filter_list=filters)
    assert set(run_lm_eval(llama, "exact", include_path=folder)) == {
        "exact/exact_match,strict",
        "exact/exact_match,loose",
    }


def test_metrics_that_are_no_means_are_left_out(llama, tmp_path):
    rows = [{"question": f"w{place}", "answer": f"w{50 - place}"} for place in range(3, 7)]
    folder = harness_tasks.write(
        tmp_path / "tasks",
        "words",
        rows,
        output_type="loglikelihood",
        doc_to_target=" {{answer}}",
        metric_list=[
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            *harness_tasks.metrics("acc"),
        ],
    )
    assert set(run_lm_eval(llama, "words", include_path=folder)) == {"words/acc"}


def test_a_task_without_a_mean_is_refused(llama, tmp_path):
    folder = harness_tasks.multiple_choice(
        tmp_path / "tasks", CHOICES[:5], metric_list=[{"metric": "mcc"}]
    )
    with pytest.raises(InputError, match="no metric that is a mean over its examples, only mcc"):
        run_lm_eval(llama, "choice", include_path=folder)


def test_a_result_holds_no_text(llama, folder):
    result = run_lm_eval(llama, "choice", include_path=folder)["choice/acc"]
    kept = repr(dataclasses.asdict(result))
    assert not any(question in kept for question, _, _ in CHOICES)


def test_inputs_that_were_cut_are_told(llama, folder):
    harness_tasks.multiple_choice(folder, [("w5 " * 300, ["w6", "w7 w8"], 0)], name="long")
    with pytest.warns(CnaLensWarning, match="cut the beginning of inputs .* in 2 cases"):
        run_lm_eval(llama, "long", include_path=folder)


def test_logits_that_are_not_numbers_are_an_error_and_no_answer(folder):
    broken = tiny.bridge("llama")
    with torch.no_grad():
        for parameter in broken.original_model.parameters():
            parameter.mul_(float("nan"))
    harness_tasks.exact_match(folder, [("w5 w6", "w7")])
    for task in ("choice", "exact"):
        with pytest.raises(cna_lens.ActivationError, match="logits that are not numbers"):
            run_lm_eval(broken, task, include_path=folder)


def result(*values, metric="acc", hashes=None):
    places = range(len(values))
    hashes = hashes or tuple(f"{place:02x}" for place in places)
    return TaskResult("trivia", metric, tuple(f"trivia:{i}" for i in places), hashes, values)


def test_two_conditions_are_compared_example_by_example():
    before, after = result(1.0, 0.0, 1.0, 1.0), result(0.0, 0.0, 1.0, 0.0)
    assert after.change_from(before) == cna_lens.paired_bootstrap(before.values, after.values)
    assert cna_lens.mcnemar(before.outcomes, after.outcomes) == 0.5


@pytest.mark.parametrize(
    "other",
    [
        result(1.0, 0.0, hashes=("00", "ff")),
        result(1.0, 0.0, metric="acc_norm"),
        result(1.0, 0.0, 1.0),
    ],
    ids=["other prompts", "other metric", "other number"],
)
def test_results_of_other_prompts_are_not_compared(other):
    with pytest.raises(InputError, match="not of the same prompts"):
        other.change_from(result(1.0, 0.0))


def test_graded_values_get_a_bootstrap_interval_and_have_no_outcomes():
    graded = result(0.5, 1.0, 0.25)
    assert graded.score == cna_lens.bootstrap_mean([0.5, 1.0, 0.25])
    with pytest.raises(InputError, match="values other than 0 and 1"):
        _ = graded.outcomes
