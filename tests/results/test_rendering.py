"""What results print and show, read back with Python's own HTML parser."""

from dataclasses import asdict

import pytest
import results
from parsed_html import Parsed

from cna_lens import Circuit, Estimate, Layout, Neuron, Provenance, Rate
from cna_lens.results.rendering import Cell, Summary, Table
from cna_lens.results.rendering.html import summary_html
from cna_lens.results.rendering.text import plain_text
from cna_lens.results.rendering.visible import visible


def test_repr_is_one_line_print_has_80_columns_and_html_is_well_formed():
    empty = Circuit((), (), Layout((4, 0, 4)))
    made_up = (results.circuit(), results.scores(), results.comparison(), empty)
    for result in (*made_up, *results.evidence().values()):
        assert 20 < len(repr(result)) < 160
        assert "\n" not in repr(result)
        printed = str(result).splitlines()
        assert len(printed) > 3
        assert max(map(len, printed)) <= 80
        parsed = Parsed(result._repr_html_())
        assert len(parsed.rows) >= 1
        assert not [a for a in parsed.attributes("script") if "src" in a]
        assert "http" not in result._repr_html_()


def test_a_table_too_wide_for_its_words_is_cut_and_repeats_its_keys():
    columns = ("name", "strength", *(f"column{place:02}" for place in range(9)))
    rows = tuple(
        (Cell.of(name), Cell.of(1.0), *(Cell.of(100.0 + place) for place in range(9)))
        for name in ("one", "other")
    )
    wide = Table("wide", columns, rows, keys=2)
    printed = plain_text(Summary("a result", (), wide))
    assert max(map(len, printed.splitlines())) <= 80
    headers = [line for line in printed.splitlines() if "column" in line]
    assert len(headers) == 2
    assert all("name" in line and "strength" in line for line in headers)
    shown = [cell for line in headers for cell in line.split() if cell.startswith("column")]
    assert shown == list(columns[2:])
    assert printed.count("other") == 2
    narrow = wide.of_columns(range(6))
    assert plain_text(Summary("a result", (), narrow)).count("strength") == 1
    assert Table.from_record(asdict(wide)) == wide


def test_a_file_of_an_earlier_version_names_no_keys():
    record = asdict(Table("numbers", ("n",), ((Cell.of(1),),)))
    del record["keys"]
    assert Table.from_record(record).keys == 1


def test_in_a_notebook_a_summary_is_the_same_text(monkeypatch):
    circuit = results.circuit()
    text = str(circuit)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert str(circuit) == text != ""


def test_the_html_of_a_circuit_holds_every_neuron_and_counts_each_layer():
    circuit = results.circuit()
    parsed = Parsed(circuit._repr_html_())
    header, *rows = parsed.rows
    assert header == ["rank", "layer", "index", "score"]
    assert [(int(layer), int(index)) for _, layer, index, _ in rows] == list(circuit)
    assert [float(row[3]) for row in rows] == pytest.approx(circuit.scores, abs=5e-4)
    (image,) = parsed.attributes("svg")
    for layer, indices in circuit.by_layer().items():
        assert f"layer {layer}: {len(indices)}" in image["aria-label"]
    tall = [float(bar["height"]) for bar in parsed.attributes("rect")]
    counts = [len(indices) for indices in circuit.by_layer().values()]
    assert tall == pytest.approx([72 * count / max(counts) for count in counts], abs=0.01)
    left = [float(bar["x"]) for bar in parsed.attributes("rect")]
    assert left == pytest.approx([100 * layer + 10 for layer in circuit.by_layer()], abs=0.01)


def test_a_printed_circuit_names_its_strongest_neurons_and_its_model():
    circuit = results.circuit(model="a model")
    lines = str(circuit).splitlines()
    assert "a model" in lines[2]
    strongest = circuit.neurons[0]
    row = next(line for line in lines if line.startswith("│    1 "))
    assert row.split("│")[2:4] == [f"{strongest.layer:>6} ", f"{strongest.index:>6} "]


def test_a_hostile_name_is_shown_as_text_and_makes_no_element():
    circuit = results.circuit(model=results.HOSTILE)
    parsed = Parsed(circuit._repr_html_())
    assert results.HOSTILE in parsed.text
    assert len(parsed.attributes("script")) == 1
    assert not parsed.attributes("img")
    transfer = results.cna_lens.transfer({results.HOSTILE: circuit, "b": results.circuit(seed=1)})
    parsed = Parsed(transfer._repr_html_())
    assert parsed.rows[1][0] == results.HOSTILE
    assert len(parsed.attributes("script")) == 1


def test_terminal_markup_is_shown_as_text():
    circuit = Circuit(
        (Neuron(0, 0),), (1.0,), Layout((4,)), Provenance(model="[red]x[/red]\x1b[31m")
    )
    assert "[red]x[/red]⟨U+001B⟩[31m" in str(circuit)


def test_cells_are_sorted_by_their_number_and_none_has_no_number():
    cells = [Cell.of(value) for value in (float("nan"), float("inf"), -2.5, None)]
    table = Table("numbers", ("x",), tuple((cell,) for cell in cells))
    found = Parsed(summary_html(Summary("s", [], table))).attributes("td")
    assert [cell.get("data-sort") for cell in found] == ["NaN", "Infinity", "-2.5", None]


def test_intervals_are_left_out_of_the_terminal_only_where_they_do_not_fit():
    rate, mean = Cell.of(Rate(0.2, 0.1, 0.3, 50)), Cell.of(Estimate(2.0, 1.5, 2.5, 50))
    narrow = plain_text(Summary("s", [], Table("t", ("a", "b"), ((rate, mean),))))
    assert "20.0 % [10.0, 30.0] n=50" in narrow
    assert "2 [1.5, 2.5] n=50" in narrow
    wide = plain_text(Summary("s", [], Table("t", tuple("abcd"), ((rate, mean, rate, mean),))))
    assert "20.0 %" in wide
    assert "[10.0" not in wide
    assert "without intervals" in wide


def test_a_long_table_says_how_many_rows_it_leaves_out():
    rows = tuple((Cell.of(n),) for n in range(1000))
    summary = Summary("s", [], Table("numbers", ("n",), rows))
    assert "numbers, 20 of 1000" in plain_text(summary)
    parsed = Parsed(summary_html(summary))
    assert len(parsed.rows) == 1 + 200
    assert "numbers, 200 of 1000" in parsed.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\tc\r", "a↵b⇥c␍"),
        ("\u202e", "⟨U+202E⟩"),
        ("\u200b", "⟨U+200B⟩"),
        ("\u200d", "⟨U+200D⟩"),
        ("\U0001f469\u200d\U0001f4bb", "\U0001f469\u200d\U0001f4bb"),
        ("\ud800", "⟨U+D800⟩"),
        ("\u0301", "\u25cc\u0301"),
        ("e\u0301", "e\u0301"),
        ("", ""),
        (" مرحبا é", " مرحبا é"),
    ],
)
def test_hidden_characters_are_written_out_and_others_left(text, expected):
    assert visible(text) == expected
