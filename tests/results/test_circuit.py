import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from cna_lens import (
    Circuit,
    CircuitFileError,
    Layout,
    Neuron,
    PromptRecord,
    Provenance,
    UniversalRecord,
)

# Beartype picks which items it checks at random, also where a strategy builds a circuit.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

TEXT = st.none() | st.text(max_size=8)
RECORD = st.builds(PromptRecord, st.integers(0, 200), st.text(max_size=8))
UNIVERSAL = st.builds(
    UniversalRecord,
    n_neurons=st.integers(0, 99),
    fraction=st.none() | st.floats(0.001, 1),
    threshold=st.none() | st.floats(0.1, 1),
    scope=TEXT,
    by=TEXT,
    applied=st.sampled_from(["before", "after"]),
    prompts=st.none() | RECORD,
)
PROVENANCE = st.builds(
    Provenance,
    model=TEXT,
    weights_sha256=TEXT,
    site=st.text(max_size=8),
    position=st.none() | st.integers(-5, 5),
    template_sha256=TEXT,
    positive=st.none() | RECORD,
    negative=st.none() | RECORD,
    rank=TEXT,
    unit=TEXT,
    sign=TEXT,
    fraction=st.none() | st.floats(0.001, 1),
    k=st.none() | st.integers(1, 99),
    layers=st.none() | st.lists(st.integers(0, 9)).map(tuple),
    universal=st.none() | UNIVERSAL,
    hub=TEXT,
    versions=st.dictionaries(st.text(max_size=5), st.text(max_size=5)).map(
        lambda versions: tuple(sorted(versions.items()))
    ),
)


@st.composite
def circuits(draw):
    layout = Layout(tuple(draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))))
    every = [Neuron(layer, i) for layer, width in enumerate(layout.widths) for i in range(width)]
    order = draw(st.permutations(every))
    neurons = tuple(order[: draw(st.integers(0, len(order)))])
    finite = st.floats(allow_nan=False, allow_infinity=False)
    scores = draw(st.lists(finite, min_size=len(neurons), max_size=len(neurons)))
    return Circuit(neurons, tuple(scores), layout, draw(PROVENANCE))


@pytest.fixture
def circuit():
    return Circuit(
        (Neuron(1, 3), Neuron(0, 2), Neuron(1, 0)),
        (2.5, -1.0, 0.1),
        Layout((4, 5)),
        Provenance(
            model="a model",
            position=-1,
            positive=PromptRecord(3, "abc"),
            layers=(0, 1),
            universal=UniversalRecord(2, 0.001, 0.8, prompts=PromptRecord(40, "def")),
            versions=(("cna-lens", "1"), ("torch", "2")),
        ),
    )


def sealed(body):
    """A circuit file as the format describes it, written without cna_lens."""
    body = {name: value for name, value in body.items() if name != "sha256"}
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return json.dumps(body | {"sha256": hashlib.sha256(canonical.encode()).hexdigest()})


def places(body, path=()):
    """The path to every single value in nested lists and objects."""
    if isinstance(body, dict | list):
        items = body.items() if isinstance(body, dict) else enumerate(body)
        for key, value in items:
            yield from places(value, (*path, key))
    else:
        yield path


@given(circuits())
@settings(deadline=None)
def test_a_circuit_comes_back_from_its_file_and_gives_the_same_bytes_again(circuit):
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / "first.json", Path(folder) / "second.json"
        circuit.save(str(first))
        loaded = Circuit.load(str(first))
        assert loaded == circuit
        loaded.save(second)
        assert first.read_bytes() == second.read_bytes()


def test_versions_keep_their_order_in_a_file(circuit, tmp_path):
    circuit = circuit.with_provenance(versions=(("torch", "2"), ("cna-lens", "1")))
    circuit.save(tmp_path / "circuit.json")
    assert Circuit.load(tmp_path / "circuit.json") == circuit


@pytest.mark.usefixtures("without_type_checks")
def test_neurons_counted_by_numpy_can_be_saved(tmp_path):
    strongest = np.argsort([0.5, 2.0, 1.0])[-1]
    circuit = Circuit((Neuron(0, strongest),), (2.0,), Layout((3,)))
    circuit.save(tmp_path / "circuit.json")
    assert Circuit.load(tmp_path / "circuit.json").neurons == (Neuron(0, 1),)


def test_save_makes_missing_folders_and_replaces_an_older_file(circuit, tmp_path):
    path = tmp_path / "new" / "folder" / "circuit.json"
    circuit.save(path)
    other = circuit.with_provenance(model="another")
    other.save(path)
    assert Circuit.load(path) == other
    assert list(path.parent.iterdir()) == [path]


def test_a_file_written_by_hand_loads(tmp_path):
    path = tmp_path / "circuit.json"
    path.write_text(
        sealed(
            {
                "format": "cna_lens.circuit",
                "version": 1,
                "widths": [4, 2],
                "neurons": [[1, 1, -2.5], [0, 3, 1.0]],
                "provenance": {"model": "m", "positive": {"count": 8, "sha256": "abc"}},
            }
        )
    )
    provenance = Provenance(model="m", positive=PromptRecord(8, "abc"))
    expected = Circuit((Neuron(1, 1), Neuron(0, 3)), (-2.5, 1.0), Layout((4, 2)), provenance)
    assert Circuit.load(path) == expected


def test_the_bytes_of_a_file_stay_the_same(circuit, tmp_path):
    path = tmp_path / "circuit.json"
    circuit.save(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == (
        "584d69cc4d2f0c482c022120a51c7b95b280d7e0c4e65a3da31a7bd77e1c10ef"
    )


def test_every_truncation_is_refused(circuit, tmp_path):
    path, cut = tmp_path / "circuit.json", tmp_path / "cut.json"
    circuit.save(path)
    text = path.read_text().rstrip()
    for length in range(len(text)):
        cut.write_text(text[:length])
        with pytest.raises(CircuitFileError, match="truncated"):
            Circuit.load(cut)


def test_every_altered_value_is_refused(circuit, tmp_path):
    path = tmp_path / "circuit.json"
    circuit.save(path)
    whole = path.read_text()
    altered = [p for p in places(json.loads(whole)) if p not in {("format",), ("version",)}]
    assert len(altered) > 20
    path.write_text(json.dumps({k: v for k, v in json.loads(whole).items() if k != "sha256"}))
    with pytest.raises(CircuitFileError, match="altered"):
        Circuit.load(path)
    for place in altered:
        body = json.loads(whole)
        target = body
        for key in place[:-1]:
            target = target[key]
        value = target[place[-1]]
        target[place[-1]] = "changed" if isinstance(value, str | None) else value + 1
        path.write_text(json.dumps(body))
        with pytest.raises(CircuitFileError, match="altered"):
            Circuit.load(path)


@pytest.mark.parametrize(
    ("change", "telling"),
    [
        ({"version": 2}, "has version 2, .* reads version 1; update cna_lens"),
        ({"version": None}, "has version None"),
        ({"format": "someone.else"}, "is not a circuit file: its format is 'someone.else'"),
        ({"neurons": [[0, 0, 1.0], [0, 0, 2.0]]}, "does not describe a circuit.*twice"),
        ({"neurons": [[0, 99, 1.0]]}, "does not describe a circuit.*neuron 99"),
        ({"neurons": [[0, 1]]}, "does not describe a circuit"),
        ({"neurons": 3}, "does not describe a circuit"),
        ({"widths": None}, "does not describe a circuit"),
        ({"provenance": {"astrology": "leo"}}, "does not describe a circuit.*astrology"),
        ({"provenance": {"positive": {"colour": "red"}}}, "does not describe a circuit"),
        ({"provenance": {"universal": {"colour": "red"}}}, "does not describe a circuit"),
        ({"provenance": None}, "does not describe a circuit"),
    ],
)
def test_a_file_with_a_checksum_that_is_not_a_circuit_of_this_version_is_refused(
    circuit, tmp_path, change, telling
):
    path = tmp_path / "circuit.json"
    circuit.save(path)
    path.write_text(sealed(json.loads(path.read_text()) | change))
    with pytest.raises(CircuitFileError, match=f"(?s){telling}") as raised:
        Circuit.load(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("content", "telling"),
    [
        (b"[1, 2]", "is not a circuit file: it holds a list"),
        (b'{"name": "something"}', "is not a circuit file: its format is None"),
        (b"\x89PNG\r\n\xff", "truncated or not JSON"),
        (b"", "truncated or not JSON"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, content, telling):
    path = tmp_path / "circuit.json"
    path.write_bytes(content)
    with pytest.raises(CircuitFileError, match=telling):
        Circuit.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CircuitFileError, match=r"nowhere\.json does not exist"):
        Circuit.load(tmp_path / "nowhere.json")


def test_a_folder_is_not_a_circuit_file(tmp_path):
    with pytest.raises(CircuitFileError, match=tmp_path.name):
        Circuit.load(tmp_path)


@pytest.mark.parametrize("moment", ["os.fsync", "pathlib.Path.replace"])
def test_an_interrupted_save_leaves_the_old_file_and_nothing_else(
    circuit, tmp_path, monkeypatch, moment
):
    path = tmp_path / "circuit.json"
    circuit.save(path)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(moment, interrupt)
    with pytest.raises(KeyboardInterrupt):
        circuit.with_provenance(model="another").save(path)
    assert Circuit.load(path) == circuit
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_half_of_a_new_file(circuit, tmp_path):
    path = tmp_path / "circuit.json"
    circuit.save(path)
    old = path.read_text()
    with path.open() as reader:
        Circuit((), (), circuit.layout).save(path)
        assert reader.read() == old
