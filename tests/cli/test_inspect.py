"""Tasks of Inspect, run for real on a tiny steered model; `make test-inspect` has the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from inspect_ai import Task, eval as inspect_eval
from inspect_ai.dataset import Sample
from inspect_ai.log import read_eval_log
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import tool

import cna_lens
from cna_lens import Circuit, InputError, Layout, Neuron
from cna_lens.cli.inspect import arguments, provider

pytestmark = [
    pytest.mark.inspect,
    # What Inspect and its dependencies warn of is not ours.
    pytest.mark.filterwarnings("ignore"),
]

CIRCUIT = Circuit(tuple(Neuron(1, index) for index in range(24)), (1.0,) * 24, Layout((24, 24)))
INPUTS = [f"w{n} w{n + 1}" for n in range(5, 25)]
TOKENS = 6

TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def words():
    samples = [Sample(input=f"w{n} w{n + 1}", target="w") for n in range(5, 9)]
    return Task(samples, solver=generate(), scorer=includes(), config=GenerateConfig(max_tokens=6))
"""


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path, without_type_checks):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model(folder):
    return cna_lens.load_model(folder, device="cpu")


@pytest.fixture
def circuit_file(tmp_path):
    CIRCUIT.save(tmp_path / "circuit.json")
    return tmp_path / "circuit.json"


def task(samples=None, **config):
    samples = samples or [Sample(input=text, target="w") for text in INPUTS]
    config = GenerateConfig(**{"max_tokens": TOKENS, **config})
    return Task(samples, solver=generate(), scorer=includes(), config=config)


def run(asked, name, folder, epochs=1, **arguments):
    (log,) = inspect_eval(
        asked,
        model=f"cna/{name}",
        model_args=arguments,
        log_dir=str(folder / "logs"),
        display="none",
        epochs=epochs,
    )
    return log


def answers(log):
    return [sample.output.completion for sample in sorted(log.samples, key=lambda s: int(s.id))]


def test_a_task_runs_on_the_steered_model_in_batches(
    model, folder, circuit_file, tmp_path, monkeypatch
):
    sizes = []

    def counted(hooked, prompts, settings, seeds):
        sizes.append(len(prompts))
        return scored(hooked, prompts, settings, seeds)

    def loaded(name, **options):
        loads.append(name)
        return load(name, **options)

    loads, load = [], arguments.load_model
    monkeypatch.setattr(arguments, "load_model", loaded)
    scored = provider.scored_answers
    monkeypatch.setattr(provider, "scored_answers", counted)
    log = run(task(), folder, tmp_path, circuit=str(circuit_file), multiplier=0)
    assert log.status == "success", log.error
    with cna_lens.steer(model, CIRCUIT, 0.0):
        steered = cna_lens.generate(model, INPUTS, max_new_tokens=TOKENS)
    assert answers(log) == steered
    assert steered != cna_lens.generate(model, INPUTS, max_new_tokens=TOKENS)
    assert log.results.scores[0].metrics["accuracy"].value == 1
    assert sum(sizes) == len(INPUTS)
    assert len(sizes) <= 4
    assert loads == [str(folder)]


def test_without_a_circuit_the_model_is_as_it_was(model, folder, tmp_path):
    log = run(task(), folder, tmp_path)
    assert answers(log) == cna_lens.generate(model, INPUTS, max_new_tokens=TOKENS)
    assert log.samples[0].output.metadata["cna_lens"]["steered"] is False


def test_the_log_on_the_disk_has_the_neurons_the_scope_and_the_hash(folder, circuit_file, tmp_path):
    log = run(
        task(), folder, tmp_path, circuit=str(circuit_file), multiplier=0.5, positions="prompt"
    )
    read = read_eval_log(log.location)
    assert read.eval.model_args["multiplier"] == 0.5
    for sample in read.samples:
        record = sample.output.metadata["cna_lens"]
        assert record["neurons"] == [neuron.label for neuron in CIRCUIT]
        assert (record["multiplier"], record["positions"]) == (0.5, "prompt")
        assert record["via"] == "hooks"
        assert record["circuit_sha256"] == CIRCUIT.sha256


def test_log_probabilities_are_those_of_the_steered_model(model, folder, circuit_file, tmp_path):
    log = run(
        task(logprobs=True, top_logprobs=3), folder, tmp_path,
        circuit=str(circuit_file), multiplier=0,
    )  # fmt: skip
    for text, sample in zip(INPUTS, sorted(log.samples, key=lambda s: int(s.id)), strict=True):
        output = sample.output
        assert output.usage.output_tokens == len(output.choices[0].logprobs.content)
        (ids,) = cna_lens.models.encode(model, [text]).ids
        assert output.usage.input_tokens == len(ids)
        written = model.tokenizer(output.completion, add_special_tokens=False)["input_ids"]
        with torch.no_grad(), cna_lens.steer(model, CIRCUIT, 0.0):
            rows = model(torch.tensor([[*ids, *written]]))[0].log_softmax(-1)
        content = output.choices[0].logprobs.content
        for place, (token, said) in enumerate(zip(written, content, strict=True)):
            row = rows[len(ids) + place - 1]
            assert said.logprob == pytest.approx(float(row[token]), abs=1e-4)
            assert said.token == model.tokenizer.decode([token])
            best = [each.logprob for each in said.top_logprobs]
            assert best == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)


def test_chats_keep_their_roles_and_stop_reasons_are_said(model, folder, tmp_path):
    chat = [ChatMessageSystem(content="w9"), ChatMessageUser(content="w5 w6")]
    log = run(task([Sample(input=chat, target="w", id=1)]), folder, tmp_path)
    messages = [{"role": "system", "content": "w9"}, {"role": "user", "content": "w5 w6"}]
    assert answers(log) == cna_lens.generate(model, [messages], max_new_tokens=TOKENS)
    assert log.samples[0].output.stop_reason == "max_tokens"
    stop = f" {answers(log)[0].split()[2]}"
    (ended,) = run(
        task([Sample(input=chat, target="w", id=1)], stop_seqs=[stop]), folder, tmp_path
    ).samples
    assert ended.output.completion == answers(log)[0].partition(stop)[0]
    assert ended.output.stop_reason == "stop"


def test_epochs_of_a_sample_are_drawn_anew_and_a_second_run_draws_the_same(folder, tmp_path):
    asked = [Sample(input="w5 w6", target="w", id=1)]
    drawn = [
        sorted(
            sample.output.completion
            for sample in run(
                task(asked, temperature=1.5, seed=3), folder, tmp_path, epochs=6, batch_size=size
            ).samples
        )
        for size in (32, 4)
    ]
    assert len(set(drawn[0])) > 3
    assert drawn[0] == drawn[1]


def test_a_context_that_ends_an_answer_is_told_from_a_limit(folder, tmp_path):
    long = " ".join(["w5"] * 230)
    (sample,) = run(task([Sample(input=long, target="w", id=1)], max_tokens=99), folder,
                    tmp_path).samples  # fmt: skip
    assert sample.output.stop_reason in ("model_length", "stop")
    assert sample.output.usage.total_tokens <= 256


@tool
def add():
    async def execute(x: int, y: int):
        """Add two numbers.

        Args:
            x: the first.
            y: the second.
        """
        return x + y

    return execute


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (lambda: task(top_p=0.9), "at temperature 0 the most likely token is taken"),
        (lambda: task(top_k=5), "top_k is 5, and cna models do not have it"),
        (lambda: task(max_tokens=0), "max_new_tokens is 0"),
        (
            lambda: Task(task().dataset, solver=[use_tools(add()), generate()], scorer=includes()),
            "the task gives the tools add",
        ),
        (
            lambda: task([Sample(input=" ".join(["w5"] * 300), target="w")]),
            "the model's context holds 256",
        ),
    ],
)
def test_what_the_model_cannot_do_is_an_error_and_no_other_answer(folder, tmp_path, asked, message):
    log = run(asked(), folder, tmp_path)
    assert log.status == "error"
    assert message in log.error.message


def test_a_bad_argument_and_a_circuit_of_another_model_are_refused(folder, circuit_file):
    with pytest.raises(InputError, match="-M multiplicator is unknown"):
        get_model(f"cna/{folder}", multiplicator=0)
    elsewhere = CIRCUIT.with_provenance(model="another")
    with pytest.raises(cna_lens.CircuitMismatchError, match="found on another"):
        get_model(f"cna/{folder}", circuit=elsewhere, multiplier=0)


def test_two_models_of_inspect_may_be_one_loaded_model(model, tmp_path):
    base = get_model("cna/base", hooked_model=model, memoize=False)
    steered = get_model(
        "cna/steered", hooked_model=model, circuit=CIRCUIT, multiplier=0, memoize=False
    )
    logs = inspect_eval(
        task(), model=[base, steered], log_dir=str(tmp_path / "logs"), display="none",
        max_tasks=2,
    )  # fmt: skip
    with cna_lens.steer(model, CIRCUIT, 0.0):
        expected = cna_lens.generate(model, INPUTS, max_new_tokens=TOKENS)
    by_name = {log.eval.model: answers(log) for log in logs}
    assert by_name["cna/steered"] == expected
    assert by_name["cna/base"] == cna_lens.generate(model, INPUTS, max_new_tokens=TOKENS)


def test_the_command_line_finds_the_provider_and_writes_a_log(folder, circuit_file, tmp_path):
    (tmp_path / "words.py").write_text(TASK)
    inspect = Path(sys.executable).with_name("inspect")
    command = [
        inspect, "eval", "words.py", "--model", f"cna/{folder}", "--log-dir", "logs",
        "--log-format", "json", "--display", "plain",
        "-M", f"circuit={circuit_file}", "-M", "multiplier=0",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"NO_COLOR": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (log,) = (tmp_path / "logs").glob("*.json")
    read = json.loads(log.read_text())
    assert read["status"] == "success"
    assert len(read["samples"]) == 4
    record = read["samples"][0]["output"]["metadata"]["cna_lens"]
    assert record["circuit_sha256"] == CIRCUIT.sha256
