"""What `-M` takes, and how requests of Inspect become batches; Inspect itself is not needed."""

import threading

import anyio
import pytest
import results

from cna_lens import Circuit, InputError, Layout, Neuron, matched_random
from cna_lens.cli.inspect.arguments import Arguments
from cna_lens.cli.inspect.batches import Batches

CIRCUIT = Circuit((Neuron(1, 3), Neuron(0, 5)), (2.0, -1.0), Layout((24, 24)))


@pytest.fixture(autouse=True)
def _arguments_come_from_a_command_line(without_type_checks):
    pass


def test_a_circuit_is_read_from_its_file(tmp_path):
    CIRCUIT.save(tmp_path / "circuit.json")
    arguments = Arguments.read({"circuit": str(tmp_path / "circuit.json"), "multiplier": 0})
    assert arguments.steered == arguments.circuit == CIRCUIT


@pytest.mark.parametrize(
    ("given", "asked"),
    [("me/x", ("me/x", None)), ("me/x@0a1b", ("me/x", "0a1b")), ("me/x@v1.2", ("me/x", "v1.2"))],
)
def test_a_circuit_is_read_from_the_hub_by_its_name(monkeypatch, given, asked):
    def from_hub(repo_id, *, revision):
        assert (repo_id, revision) == asked
        return CIRCUIT

    monkeypatch.setattr(Circuit, "from_hub", from_hub)
    assert Arguments.read({"circuit": given, "multiplier": 0}).circuit == CIRCUIT


def test_a_control_steers_random_neurons_in_place_of_the_circuits():
    arguments = Arguments(CIRCUIT, multiplier=0, control=3)
    assert arguments.steered == matched_random(CIRCUIT, seed=3)


def test_the_record_has_the_neurons_the_scope_and_the_hash(llama):
    record = Arguments(CIRCUIT, multiplier=0.5, positions="last_prompt").record(llama)
    assert record["neurons"] == ["L1/3", "L0/5"]
    assert record["multiplier"] == 0.5
    assert record["positions"] == "last_prompt"
    assert record["circuit_sha256"] == CIRCUIT.sha256
    assert record["model"] == "tiny-llama"
    other = Arguments(CIRCUIT, multiplier=0.5, control=1).record(llama)
    assert other["neurons"] == [neuron.label for neuron in matched_random(CIRCUIT, seed=1)]
    assert Arguments().record(llama) == {"model": "tiny-llama", "steered": False}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"circut": "x"}, "-M circut is unknown.*takes allow_other_model, batch_size, circuit"),
        ({"multiplier": 0}, "give both, such as -M circuit=circuit.json -M multiplier=0"),
        ({"circuit": CIRCUIT}, "give both"),
        ({"control": 1}, "there is no circuit"),
        (
            {"circuit": CIRCUIT, "multiplier": "off"},
            "multiplier is 'off', expected a finite number",
        ),
        ({"circuit": CIRCUIT, "multiplier": True}, "multiplier is True, expected a finite number"),
        ({"circuit": CIRCUIT, "multiplier": float("nan")}, "multiplier is nan"),
        ({"circuit": CIRCUIT, "multiplier": 0, "positions": "end"}, "positions is 'end'"),
        ({"circuit": CIRCUIT, "multiplier": 0, "via": "magic"}, "via is 'magic', expected one of"),
        ({"circuit": CIRCUIT, "multiplier": 0, "control": -1}, "control is -1.*number from 0"),
        ({"dtype": "int8"}, "dtype is 'int8', expected one of float32"),
        ({"batch_size": 0}, "batch_size is 0, expected a whole number from 1"),
        ({"batch_size": "many"}, "batch_size is 'many'"),
        ({"allow_other_model": "yes"}, "allow_other_model is 'yes', expected true or false"),
    ],
)
def test_a_bad_argument_is_named_before_a_model_is_loaded(given, message):
    with pytest.raises(InputError, match=message):
        Arguments.read(given)


def test_the_checksum_of_a_circuit_stands_in_its_file(tmp_path):
    circuit = results.circuit()
    circuit.save(tmp_path / "circuit.json")
    assert f'"sha256": "{circuit.sha256}"' in (tmp_path / "circuit.json").read_text()
    assert circuit.sha256 != circuit.with_provenance(model="another").sha256


# Batches


def run_all(batches, requests):
    async def main():
        found = {}

        async def ask(request):
            try:
                found[request] = await batches(request)
            except ValueError as error:
                found[request] = str(error)

        async with anyio.create_task_group() as group:
            for request in requests:
                group.start_soon(ask, request)
        return found

    return anyio.run(main)


def test_requests_that_are_sent_together_run_together_in_a_thread():
    seen = []

    def run(requests):
        assert threading.current_thread() is not threading.main_thread()
        seen.append(list(requests))
        return [request * 10 for request in requests]

    batches = Batches(run, 4)
    assert run_all(batches, range(10)) == {n: 10 * n for n in range(10)}
    assert sorted(each for batch in seen for each in batch) == list(range(10))
    assert [len(batch) for batch in seen] == [4, 4, 2]
    # A second event loop, as for a second evaluation in one process.
    assert run_all(batches, [3]) == {3: 30}


def test_the_error_of_a_batch_is_raised_for_each_of_its_requests_and_ends_there():
    seen = []

    def run(requests):
        seen.append(list(requests))
        if 1 in requests:
            raise ValueError("no logits")
        return requests

    found = run_all(Batches(run, 2), range(4))
    assert seen == [[0, 1], [2, 3]]
    assert found == {0: "no logits", 1: "no logits", 2: 2, 3: 3}


def test_a_cancelled_request_does_not_hold_up_the_others():
    gate = threading.Event()

    def run(requests):
        gate.wait(10)
        return requests

    batches = Batches(run, 1)

    async def main():
        found = []

        async def ask(request):
            found.append(await batches(request))

        async with anyio.create_task_group() as group:
            with anyio.move_on_after(0.1):
                async with anyio.create_task_group() as cancelled:
                    cancelled.start_soon(ask, "waiting")
                    cancelled.start_soon(ask, "waiting too")
                    await anyio.sleep(0.05)
                    gate.set()
                    cancelled.cancel_scope.cancel()
            group.start_soon(ask, "next")
        return found

    assert anyio.run(main)[-1] == "next"
