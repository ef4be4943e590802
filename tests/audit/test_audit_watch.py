"""Watching a circuit: the rate of false alarms by simulation, and alarms for planted changes."""

import json
import math
import random
import warnings

import pytest
import tiny
import torch

import cna_lens
from cna_lens import Circuit, CnaLensWarning, InputError, Layout, Neuron, audit, steer
from cna_lens.audit import Histograms
from cna_lens.audit.watching.exchangeability import JumpingBets, fair_bets, ranks
from cna_lens.audit.watching.histograms import EDGES, N_BINS, binned

NEURONS = (Neuron(1, 3), Neuron(0, 5), Neuron(1, 0))
CIRCUIT = Circuit(NEURONS, (3.0, 2.0, 1.0), Layout((tiny.WIDTH, tiny.WIDTH)))


def requests(n, seed=0, longest=6):
    rng = random.Random(seed)
    return [[rng.randrange(3, 60) for _ in range(rng.randint(2, longest))] for _ in range(n)]


def ask(model, prompts):
    with torch.no_grad():
        for prompt in prompts:
            model(torch.tensor([prompt]))


@pytest.fixture(scope="module")
def watched():
    return tiny.bridge("llama", chat=True)


@pytest.fixture(scope="module")
def reference(watched):
    with audit.watch(watched, CIRCUIT) as found:
        ask(watched, requests(300))
    return found.histograms


# The sequential test --------------------------------------------------------------------------


def test_every_bet_pays_one_on_average_and_every_interval_has_one():
    bets = fair_bets()
    torch.testing.assert_close(bets.mean(0), torch.ones(15, dtype=torch.float64))
    assert bets.argmax(0)[1:].tolist() == [0, 4, 0, 2, 4, 6, 0, 1, 2, 3, 4, 5, 6, 7]


def test_no_request_makes_capital_grow_on_average():
    ranks_of_eighths = (torch.arange(8, dtype=torch.float64) + 0.5) / 8
    bets = JumpingBets(8)
    for _ in range(3):
        bets.bet(torch.full((8,), 0.1, dtype=torch.float64))
    before = bets.of_neurons
    bets.bet(ranks_of_eighths)
    assert bets.of_neurons.exp().mean() == pytest.approx(before[0].exp())


def test_a_rank_is_the_share_of_values_above_and_a_random_part_of_the_equal_ones():
    rng = random.Random(0)
    values = [rng.randrange(5) for _ in range(50)]
    counts = torch.tensor([[values.count(each) for each in range(5)]])
    above = sum(value > values[-1] for value in values)
    same = sum(value == values[-1] for value in values)
    found = ranks(counts, torch.tensor([values[-1]]), torch.tensor([0.25], dtype=torch.float64))
    assert found.item() == pytest.approx((above + 0.25 * same) / 50)


def simulated(n_streams, n_requests, before, seed, draw):
    """The largest log capital of each of many independent streams, and all their ranks."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.zeros((n_streams, N_BINS), dtype=torch.int64)
    bets = JumpingBets(n_streams)
    largest = torch.full((n_streams,), -math.inf, dtype=torch.float64)
    used = []
    for time in range(before + n_requests):
        bins = draw(time, generator)
        counts.scatter_add_(1, bins[:, None], torch.ones_like(bins)[:, None])
        if time < before:
            continue
        ties = torch.rand(n_streams, generator=generator, dtype=torch.float64)
        used.append(ranks(counts, bins, ties))
        bets.bet(used[-1])
        largest = largest.maximum(bets.of_neurons)
    return largest, torch.stack(used)


@pytest.mark.parametrize("before", [0, 20])
def test_unchanged_streams_raise_no_more_alarms_than_stated_after_any_number_of_requests(before):
    largest, used = simulated(
        2000, 200, before, 1, lambda _, g: torch.randint(3, (2000,), generator=g).square()
    )
    assert used.mean().item() == pytest.approx(0.5, abs=0.005)
    assert (used < 0.1).double().mean().item() == pytest.approx(0.1, abs=0.005)
    for rate in (0.2, 0.05, 0.01):
        alarms = (largest >= -math.log(rate)).double().mean().item()
        assert alarms <= rate + 3 * math.sqrt(rate * (1 - rate) / 2000)


def test_a_stream_that_changes_late_soon_raises_an_alarm():
    def draw(time, generator):
        bins = torch.randint(8, (50,), generator=generator)
        return bins if time < 600 else torch.full((50,), 3)

    largest, _ = simulated(50, 460, 200, 2, draw)
    assert bool((largest >= math.log(1000)).all())


def test_neurons_that_move_together_raise_no_more_alarms_than_stated():
    rate, alarms = 0.1, 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        watched = audit.Watch(Histograms.empty("m", NEURONS), rate, lambda alarm: None, seed)
        shared = torch.randn((80, 1), generator=generator)
        watched.count(shared + 0.3 * torch.randn((80, 3), generator=generator))
        alarms += watched.alarm is not None
    assert alarms <= 60 * rate + 3 * math.sqrt(60 * rate * (1 - rate))


def test_the_capitals_stay_finite_however_long_the_change_lasts():
    bets = JumpingBets(2)
    for _ in range(2000):
        bets.bet(torch.tensor([0.01, 0.5], dtype=torch.float64))
    assert math.isfinite(bets.together)
    assert bets.together > 1000


# The watch ------------------------------------------------------------------------------------


def test_a_watch_counts_the_last_token_of_each_request_as_a_slow_definition_does(watched):
    prompts = requests(12, seed=3)
    expected = torch.zeros((3, N_BINS), dtype=torch.int64)
    for prompt in prompts:
        values = cna_lens.token_activations(watched, NEURONS, [prompt]).values[0][-1]
        for neuron, value in enumerate(values.tolist()):
            expected[neuron, sum(edge < value for edge in EDGES)] += 1
    with audit.watch(watched, CIRCUIT) as found:
        ask(watched, prompts)
    assert torch.equal(found.histograms.counts, expected)
    assert found.n_requests == 12


def test_generated_tokens_are_not_counted_and_answers_stay_the_same(watched):
    prompts = ["w5 w6", "w7", "w8 w9 w3"]
    plain = cna_lens.generate(watched, prompts, max_new_tokens=4)
    with audit.watch(watched, CIRCUIT) as found:
        assert cna_lens.generate(watched, prompts, max_new_tokens=4) == plain
    with audit.watch(watched, CIRCUIT) as one_by_one:
        for prompt in prompts:
            cna_lens.generate(watched, [prompt], max_new_tokens=4)
    assert found.n_requests == 3
    assert torch.equal(found.histograms.counts, one_by_one.histograms.counts)


def test_no_alarm_on_requests_like_those_before(watched, reference):
    with audit.watch(watched, CIRCUIT, reference) as found:
        ask(watched, requests(150, seed=4))
    assert found.alarm is None
    assert found.histograms.n_requests == 450
    assert reference.n_requests == 300


@pytest.mark.parametrize("multiplier", [0.0, 10.0, -1.0])
def test_an_alarm_where_the_circuit_is_steered(watched, reference, multiplier):
    alarms = []
    with (
        steer(watched, CIRCUIT, multiplier=multiplier, via="hooks"),
        audit.watch(watched, CIRCUIT, reference, on_alarm=alarms.append) as found,
    ):
        ask(watched, requests(100, seed=5))
    assert alarms == [found.alarm]
    assert found.alarm.evidence >= 1 / found.alarm.false_alarm_rate == 1000
    assert found.alarm.after < 100
    assert set(found.alarm.neurons) == set(NEURONS)


def test_an_alarm_where_weights_before_the_circuit_are_changed(reference):
    changed = tiny.bridge("llama", chat=True)
    with torch.no_grad():
        for block in changed.original_model.model.layers:
            block.mlp.up_proj.weight *= 10
    with (
        pytest.warns(CnaLensWarning, match=r"the circuit is not what it was: odds"),
        audit.watch(changed, CIRCUIT, reference),
    ):
        ask(changed, requests(100, seed=6))


def test_the_alarm_names_the_neuron_that_was_changed(watched, reference):
    one = Circuit((NEURONS[1],), (1.0,), CIRCUIT.layout)
    with (
        steer(watched, one, multiplier=0.0, via="hooks"),
        audit.watch(watched, CIRCUIT, reference, on_alarm=lambda alarm: None) as found,
    ):
        ask(watched, requests(150, seed=7))
    assert found.alarm.neurons[0] == NEURONS[1]
    assert NEURONS[1].label in str(found.alarm)


def test_an_alarm_that_raises_leaves_no_hook(watched, reference):
    class StoppedError(Exception):
        pass

    def stop(alarm):
        raise StoppedError

    with (
        steer(watched, CIRCUIT, multiplier=0.0, via="hooks"),
        pytest.raises(StoppedError),
        audit.watch(watched, CIRCUIT, reference, on_alarm=stop),
    ):
        ask(watched, requests(100, seed=5))
    assert audit.hooks(watched) == ()


def test_the_counts_do_not_grow_and_do_not_depend_on_the_order(watched, tmp_path):
    prompts = requests(20, seed=8)
    sizes = []
    for i, order in enumerate((prompts, prompts[::-1], prompts * 5)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CnaLensWarning)
            with audit.watch(watched, CIRCUIT) as found:
                ask(watched, order)
        found.histograms.save(tmp_path / f"{i}.json")
        sizes.append(found.histograms.counts.numel())
    assert (tmp_path / "0.json").read_text() == (tmp_path / "1.json").read_text()
    assert sizes == [3 * N_BINS] * 3


def test_the_bytes_of_a_file_stay_the_same(tmp_path):
    counts = [0] * N_BINS
    counts[12:14] = [3, 1]
    powers = "0.015625, 0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0"
    edges = ", ".join([*(f"-{each}" for each in powers.split(", ")[::-1]), powers])
    content = (
        f'{{"counts": [{counts}], "edges": [{edges}], "format": "cna_lens.histograms", '
        '"model": "m", "neurons": [[1, 3]], "version": 1}\n'
    )
    path = tmp_path / "h.json"
    path.write_text(content)
    loaded = Histograms.load(path)
    assert (loaded.model, loaded.neurons) == ("m", (Neuron(1, 3),))
    assert loaded.counts.tolist() == [counts]
    loaded.save(path)
    assert path.read_text() == content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.pop("counts"), "does not describe a histogram"),
        (lambda record: record.update(format="other"), "is not a histogram file"),
        (lambda record: record.update(edges=[0.0]), "other bins"),
        (lambda record: record["counts"].pop(), "shape"),
        (lambda record: record["counts"][0].__setitem__(0, -1), "negative"),
    ],
)
def test_damaged_files_are_refused(reference, tmp_path, change, message):
    path = tmp_path / "h.json"
    reference.save(path)
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=message):
        Histograms.load(path)


def test_bins_are_powers_of_two_and_nan_is_in_the_last():
    values = torch.tensor([0.3, 0.6, 1.2, 100.0, math.nan, -0.3, -0.6, 0.0, 0.001])
    bins = binned(values).tolist()
    assert bins[1] - bins[0] == bins[2] - bins[1] == 1
    assert bins[3] == bins[4] == N_BINS - 1
    assert bins[5] - bins[6] == 1
    assert bins[7] == bins[8] == N_BINS // 2


def test_bad_input_is_refused(watched, reference):
    other = Circuit(NEURONS[:2], (1.0, 1.0), CIRCUIT.layout)
    empty = Circuit((), (), CIRCUIT.layout)
    for arguments, message in (
        ({"circuit": other, "reference": reference}, "other neurons"),
        ({"circuit": empty}, "no neurons"),
        ({"circuit": CIRCUIT, "false_alarm_rate": 0.0}, "between 0 and 1"),
    ):
        with pytest.raises(InputError, match=message), audit.watch(watched, **arguments):
            pass
