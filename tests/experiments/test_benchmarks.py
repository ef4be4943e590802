"""The benchmarks run on a CPU, so that they do not fail on a rented GPU."""

import dataclasses
import json
import time
from mmap import mmap
from pathlib import Path

import psutil
import pytest

from experiments.benchmarks import busy, generation, gpu, side_by_side, timing
from experiments.benchmarks.memory_watch import growth_mib


@pytest.mark.long
def test_the_gpu_benchmark_runs_through_with_small_shapes_on_a_cpu():
    small = gpu.Shape("small", 32, 64, 4, 4, 2, vocab_size=300)
    bench = gpu.Bench(device="cpu", repeats=1, prompts=8, tokens=20, shared=8, new_tokens=2)
    measures = bench.run(eight=small, seventy=dataclasses.replace(small, name="large"))
    assert len({measure.name for measure in measures}) == len(measures) == 11
    assert all(measure.value > 0 or "extrapolated" in measure.name for measure in measures)


@pytest.mark.long
def test_the_generation_benchmark_compares_equal_answers():
    measures = generation.GenerationBench(repeats=1, sizes=(4,), new_tokens=3).run()
    assert len({measure.name for measure in measures}) == len(measures) == 10
    compared = [measure for measure in measures if measure.unit == "of 4"]
    assert [measure.value for measure in compared] == [4, 4, 4, 4]


def test_block_parameters_are_those_of_the_real_models():
    # Llama 3.1 8B has 8.03 billion parameters, of which 0.27 million are norms.
    total = 32 * gpu.EIGHT.block_parameters + gpu.EIGHT.embedding_parameters
    assert total == pytest.approx(8_030_261_248, rel=1e-4)
    total = 80 * gpu.SEVENTY.block_parameters + gpu.SEVENTY.embedding_parameters
    assert total == pytest.approx(70_553_706_496, rel=1e-4)


def test_a_ratio_is_the_median_of_the_pairwise_ratios():
    times = {"a": [2.0, 9.0, 3.0], "b": [1.0, 3.0, 2.0]}
    measure = timing.ratio("a / b", times, "a", "b", "")
    assert (measure.value, measure.low, measure.high) == (2.0, 1.5, 3.0)


def test_runs_alternate_and_the_warm_up_does_not_count():
    order = []
    times = timing.alternate(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2
    )
    assert order == ["a", "b"] * 3
    assert [len(each) for each in times.values()] == [2, 2]


def fill_and_free():
    # Straight from the system: memory that the process still has would be taken again.
    with mmap(-1, 2**26) as memory:
        for _ in range(64):
            memory.write(b"1" * 2**20)
        time.sleep(0.5)
    time.sleep(0.05)


def test_memory_that_is_freed_again_counts_for_the_peak():
    grown = growth_mib(fill_and_free)
    assert grown == pytest.approx(64, abs=16)
    with pytest.raises(ZeroDivisionError):
        growth_mib(lambda: 1 / 0)


def test_each_row_sets_only_its_own_way_of_waiting(monkeypatch):
    names = "('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')"
    say = f"import json, os; print(json.dumps([os.environ.get(name) for name in {names}]))"
    monkeypatch.setattr(busy, "ANSWERS", say)
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    found = {name: busy._seconds(settings, 1) for name, settings in busy.WAITING.items()}
    assert found == {
        "as torch does": [None, None],
        "as the command line does": [busy.SPIN_COUNT, None],
        "asleep at once": [None, "PASSIVE"],
    }


def test_neighbours_end_with_the_measured_process(monkeypatch):
    monkeypatch.setattr(busy, "NEIGHBOUR", "import time; time.sleep(60)")
    children = psutil.Process().children
    before = set(children())

    def interrupted():
        with busy._beside(2):
            assert len(set(children()) - before) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not set(children()) - before


def test_both_ways_to_run_the_bench_are_timed_and_their_records_compared(tmp_path, monkeypatch):
    calls = []

    def python(threads, code, *arguments):
        calls.append((threads, code, arguments))
        if code == side_by_side.EMPTY:
            return
        folder = Path(arguments[arguments.index("--out") + 1])
        folder.mkdir(parents=True)
        # With two threads one sum has another last digit.
        value = 0.3 + 1e-16 * (threads == 2)
        scored = [
            {"value": value, "cost": {"forward": 1.0, "seconds": len(calls)}},
            {"value": 0.25, "cost": {"forward": 1.0, "seconds": len(calls)}},
        ]
        (folder / "tuning.json").write_text(json.dumps({"scored": scored}))

    monkeypatch.setattr(side_by_side, "_python", python)
    measures = side_by_side.SideBySide(("a", "b"), ("random",), tmp_path, 1).run()
    assert [threads for threads, *_ in calls] == [1, 2, 1, 1]
    assert ["local" in arguments for *_, arguments in calls] == [False, False, True, False]
    assert calls[2][2][-8:] == (
        *("--ranking", "random", "--model", "a", "--model", "b", "--ray", "local"),
    )
    assert [(each.value, each.unit) for each in measures[-2:]] == [(1, "of 2"), (2, "of 2")]
