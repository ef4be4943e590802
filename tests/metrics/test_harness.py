import dataclasses
import runpy
import sys
from pathlib import Path

import harness_tasks
import pytest
import tiny
import torch

import cna_lens.metrics
from cna_lens import CnaLensError, CnaLensWarning, InputError, ModelError, Neuron
from cna_lens.metrics import TaskResult, mmlu, run_lm_eval

pytestmark = pytest.mark.usefixtures("data_sets_offline")
CHOICES = harness_tasks.random_choices(24)
FACTS = [
    ("The capital of France is", ["Berlin", "Paris"], 1),
    ("The opposite of hot is", ["very tall", "cold"], 1),
    ("Two plus two equals", ["four", "house"], 0),
]


def first_layers(n_layers, layout):
    """All neurons of the first layers."""
    width = layout.widths[0]
    neurons = tuple(Neuron(layer, index) for layer in range(n_layers) for index in range(width))
    return cna_lens.Circuit(neurons, (1.0,) * len(neurons), layout)


EVERYTHING = first_layers(2, cna_lens.Layout((tiny.WIDTH, tiny.WIDTH)))


@pytest.fixture
def folder(tmp_path):
    return harness_tasks.multiple_choice(tmp_path / "tasks", CHOICES)


def right_by_hand(model, rows):
    """Whether the correct choice has the highest log-probability, by plain forward passes."""
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


def accuracy(model, folder, **settings):
    return run_lm_eval(model, "choice", include_path=folder, **settings)["choice/acc"]


def steered(model, circuit, via):
    return cna_lens.steer(model, circuit, 0.0, via=via, allow_other_model=True)


def test_accuracy_follows_from_the_models_log_probabilities(model, folder):
    result = accuracy(model, folder)
    assert result.values == right_by_hand(model, CHOICES)
    assert 0 < sum(result.values) < 24
    assert result.score == cna_lens.wilson([value == 1 for value in result.values])
    assert result.ids == tuple(f"choice:{place}" for place in range(24))
    assert len(set(result.hashes)) == 24
    assert (result.version, result.num_fewshot, result.n) == ("1.5", 0, 24)


def test_steering_by_weights_and_by_hooks_agree_and_end_with_their_context(model, folder):
    before = accuracy(model, folder)
    by_way = {}
    for via in ("weights", "hooks"):
        with steered(model, EVERYTHING, via):
            by_way[via] = accuracy(model, folder)
            assert by_way[via].values == right_by_hand(model, CHOICES)
    assert by_way["weights"].values == by_way["hooks"].values != before.values
    assert accuracy(model, folder) == before


@pytest.mark.long
@pytest.mark.real_model
def test_a_real_model_is_scored_as_by_hand_steered_or_not(demo, tmp_path):
    folder = harness_tasks.multiple_choice(tmp_path / "tasks", FACTS)
    circuit = first_layers(4, cna_lens.Layout((1536,) * 30))
    before = accuracy(demo, folder).values
    assert before == right_by_hand(demo, FACTS)
    assert sum(before) >= 2
    by_way = {}
    for via in ("weights", "hooks"):
        with steered(demo, circuit, via):
            by_way[via] = accuracy(demo, folder).values
    with steered(demo, circuit, "hooks"):
        assert right_by_hand(demo, FACTS) == by_way["weights"] == by_way["hooks"]
    assert by_way["hooks"] != before


def answers(model, questions, max_new_tokens):
    ids = model.tokenizer(questions)["input_ids"]
    return cna_lens.generate(model, ids, max_new_tokens=max_new_tokens)


@pytest.mark.parametrize(("multiplier", "via"), [(1.0, "auto"), (0.0, "weights"), (0.0, "hooks")])
def test_exact_match_agrees_with_generate(llama, tmp_path, multiplier, via):
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


def test_single_positions_are_rejected_for_answers_in_the_prompts_pass(llama, folder):
    with (
        cna_lens.steer(llama, EVERYTHING, 0.0, positions="last_prompt"),
        pytest.raises(InputError, match=r"choice is scored on prompt .* not by magnitude_anchor"),
    ):
        run_lm_eval(llama, "choice", include_path=folder)


def test_examples_keep_their_names_in_any_requested_order(llama, folder):
    whole = run_lm_eval(llama, "choice", include_path=folder)["choice/acc_norm"]
    some = run_lm_eval(llama, {"choice": [9, 2, 5]}, include_path=folder)["choice/acc_norm"]
    assert some.ids == ("choice:2", "choice:5", "choice:9")
    assert some.hashes == tuple(whole.hashes[place] for place in (2, 5, 9))
    assert some.values == tuple(whole.values[place] for place in (2, 5, 9))


def test_a_limit_takes_the_first_examples(llama, folder):
    whole, first = accuracy(llama, folder), accuracy(llama, folder, limit=5)
    assert (first.ids, first.values) == (whole.ids[:5], whole.values[:5])


@pytest.mark.parametrize("batch_size", [1, 5, "auto"])
def test_the_batch_size_changes_no_value(llama, folder, batch_size):
    whole = run_lm_eval(llama, "choice", include_path=folder)
    assert run_lm_eval(llama, "choice", include_path=folder, batch_size=batch_size) == whole


def test_worked_examples_are_drawn_by_seed(llama, folder):
    first, again = (accuracy(llama, folder, num_fewshot=2, seed=3) for _ in range(2))
    assert first == again
    assert (first.num_fewshot, first.seed) == (2, 3)
    assert first.hashes != accuracy(llama, folder, num_fewshot=2, seed=4).hashes
    assert first.hashes != accuracy(llama, folder, num_fewshot=1, seed=3).hashes


def test_prompts_can_go_through_the_chat_template(folder):
    model = tiny.bridge("llama", chat=True)
    # lm-eval appends the choice directly to the template, and real ones end with a line break.
    line = ("assistant{% endif", "assistant\n{% endif")
    model.tokenizer.chat_template = tiny.TEMPLATE.replace(*line)
    plain, chat = (accuracy(model, folder, limit=2, chat=chat) for chat in (False, True))
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


def test_metrics_other_than_means_are_left_out(llama, tmp_path):
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


def test_a_task_without_a_mean_is_rejected(llama, tmp_path):
    folder = harness_tasks.multiple_choice(
        tmp_path / "tasks", CHOICES[:5], metric_list=[{"metric": "mcc"}]
    )
    with pytest.raises(InputError, match="no metric that is a mean over its examples, only mcc"):
        run_lm_eval(llama, "choice", include_path=folder)


def test_a_result_holds_no_text(llama, folder):
    kept = repr(dataclasses.asdict(accuracy(llama, folder)))
    assert not any(question in kept for question, _, _ in CHOICES)


def test_cut_inputs_cause_a_warning(llama, folder):
    harness_tasks.multiple_choice(folder, [("w5 " * 300, ["w6", "w7 w8"], 0)], name="long")
    with pytest.warns(CnaLensWarning, match="cut the beginning of inputs .* in 2 cases"):
        run_lm_eval(llama, "long", include_path=folder)


def test_nan_logits_raise_an_error(folder):
    broken = tiny.bridge("llama")
    with torch.no_grad():
        for parameter in broken.original_model.parameters():
            parameter.mul_(float("nan"))
    harness_tasks.exact_match(folder, [("w5 w6", "w7")])
    for task in ("choice", "exact"):
        with pytest.raises(cna_lens.ActivationError, match="logits that are not numbers"):
            run_lm_eval(broken, task, include_path=folder)


@pytest.fixture
def without_lm_eval(monkeypatch):
    for name in ("lm_eval", "lm_eval.tasks"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("path", sorted(Path(cna_lens.metrics.__file__).parent.rglob("*.py")))
def test_modules_are_imported_without_lm_eval(path, without_lm_eval):
    runpy.run_path(str(path))


@pytest.mark.parametrize("run", [mmlu, lambda model: run_lm_eval(model, "arc_easy")])
def test_a_missing_lm_eval_raises_an_error_with_the_install_command(llama, without_lm_eval, run):
    with pytest.raises(CnaLensError, match=r"pip install 'cna-lens\[evals\]'"):
        run(llama)


class WithoutHuggingFace(torch.nn.Module):
    """The attributes of a HookedTransformer that cna_lens needs."""

    cfg, tokenizer, hook_dict = type("Config", (), {"model_name": "tiny"})(), object(), {}

    def hooks(self):
        raise NotImplementedError


@pytest.mark.parametrize("run", [mmlu, lambda model: run_lm_eval(model, "arc_easy")])
def test_a_model_without_a_hugging_face_model_is_rejected(run):
    with pytest.raises(ModelError, match="WithoutHuggingFace wraps none; load tiny as a Transf"):
        run(WithoutHuggingFace().eval())


def test_a_model_without_a_tokenizer_is_rejected(folder):
    model = tiny.bridge("llama")
    model.tokenizer = None
    with pytest.raises(InputError, match="no tokenizer"):
        run_lm_eval(model, "choice", include_path=folder)


@pytest.mark.parametrize(
    ("tasks", "settings", "message"),
    [
        ("chioce", {}, "there is no task 'chioce' in .*; similar names: choice"),
        ([], {}, "tasks is empty"),
        ("choice", {"limit": 0}, "limit is 0, expected at least 1"),
        ({"choice": [0]}, {"limit": 2}, "no limit if tasks gives the examples"),
        ({"choice": []}, {}, r"the examples of choice are \[\], expected at least one index"),
        ({"choice": [1, 1]}, {}, r"are \[1, 1\], .* given once"),
        ({"choice": [-1]}, {}, r"are \[-1\], .* 0 or above"),
        ({"choice": [0, 24]}, {}, "choice has examples 0 to 23, but not 24"),
        ({"group": [0]}, {}, "group is a group; give the examples of each of its tasks"),
        ("choice", {"num_fewshot": -1}, "num_fewshot is -1"),
        ("none", {"num_fewshot": 2}, "num_fewshot is 2, but the file of none sets it to 0"),
        ("choice", {"seed": -1}, "seed is -1, expected 0 to 4294967295"),
        ("choice", {"batch_size": 0}, "batch_size is 0"),
        ("choice", {"chat": True}, "chat=True needs a chat template"),
        ("gone", {}, "cannot be loaded: FileNotFoundError"),
        ("code", {}, "code runs code that the model writes"),
    ],
)
def test_invalid_tasks_and_settings_are_rejected(llama, folder, tasks, settings, message):
    rows = CHOICES[:2]
    harness_tasks.multiple_choice(folder, rows, name="none", num_fewshot=0)
    harness_tasks.multiple_choice(folder, rows, name="code", unsafe_code=True)
    harness_tasks.multiple_choice(folder, rows, name="gone")
    (folder / "gone.jsonl").unlink()
    (folder / "group.yaml").write_text("group: group\ntask: [choice]\n")
    with pytest.raises(InputError, match=message):
        run_lm_eval(llama, tasks, include_path=folder, **settings)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("run", [mmlu, lambda *given, **how: run_lm_eval(*given, "choice", **how)])
def test_the_chat_template_is_used_or_not(llama, run):
    for chat in ("auto", cna_lens.ChatSettings(system="w5"), 1):
        with pytest.raises(InputError, match=r"chat is .*, expected True or False"):
            run(llama, chat=chat)


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
def test_results_of_different_prompts_are_not_compared(other):
    with pytest.raises(InputError, match="not of the same prompts"):
        other.change_from(result(1.0, 0.0))


def test_graded_values_get_a_bootstrap_interval_and_have_no_outcomes():
    graded = result(0.5, 1.0, 0.25)
    assert graded.score == cna_lens.bootstrap_mean([0.5, 1.0, 0.25])
    with pytest.raises(InputError, match="values other than 0 and 1"):
        _ = graded.outcomes
