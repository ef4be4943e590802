"""Figures, checked by the values of their Matplotlib artists."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
import results
import torch
from matplotlib.colors import to_rgb
from outcomes import BOILING, KINDS

import cna_lens
from cna_lens import Circuit, InputError, Layout, Neuron, NeuronScores, viz
from cna_lens.evidence.curves import thinned
from cna_lens.metrics import Answered, Evaluation, label
from cna_lens.viz.figures.style import COLOURS, line_look


@pytest.fixture(scope="module")
def evidence():
    return results.evidence()


TWO = {"base": results.circuit(seed=0), "instruct": results.circuit(seed=1)}
ANSWERED = [
    Answered(condition, "harmful", label([BOILING] * 7, [*KINDS.values(), *[KINDS[more]] * 3]))
    for condition, more in (("unsteered, m = 1", "refusal"), ("circuit, m = 0", "no answer"))
]
FIGURES = {
    "layers": lambda evidence, style: viz.layers(TWO, style=style),
    "located": lambda evidence, style: viz.layers(evidence["localization"], style=style),
    "sweep": lambda evidence, style: viz.sweep(results.comparison(), style=style),
    "pareto": lambda evidence, style: viz.pareto(results.comparison(), style=style),
    "stability": lambda evidence, style: viz.stability(evidence["stability"], style=style),
    "overlap": lambda evidence, style: viz.overlap(evidence["transfer"], style=style),
    "scores": lambda evidence, style: viz.scores(results.scores(), TWO["base"], style=style),
    "recall": lambda evidence, style: viz.recall(
        {"contrast": results.scores()}, TWO["base"], style=style
    ),
    "null": lambda evidence, style: viz.null(evidence["null"], style=style),
    "necessity": lambda evidence, style: viz.necessity(evidence["necessity"], style=style),
    "outcomes": lambda evidence, style: viz.outcomes(ANSWERED, style=style),
}


def overhang(figure):
    """The largest overhang of an artist over the figure's edge, in inches."""
    figure.draw_without_rendering()
    drawn = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    return max(-drawn.x0, -drawn.y0, drawn.x1 - width, drawn.y1 - height)


@pytest.mark.parametrize("style", ["screen", "paper"])
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_whole_labelled_and_described(evidence, name, style):
    before = dict(mpl.rcParams)
    figure = FIGURES[name](evidence, style)
    assert dict(mpl.rcParams) == before
    assert style == "screen" or figure.get_figwidth() == 3.3
    assert overhang(figure) < 0.02
    assert len(figure.description) > 30
    panels = [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]
    if name != "overlap":
        assert all(axis.get_xlabel() and axis.get_ylabel() for axis in panels)
    least = 5.5 if style == "paper" else 8
    texts = figure.findobj(lambda artist: isinstance(artist, mpl.text.Text))
    assert min(text.get_fontsize() for text in texts) >= least


def test_paper_gives_pdf_and_svg_and_screens_png_and_svg_with_the_same_bytes_again(tmp_path):
    circuit = results.circuit()
    for style, endings in (("paper", [".pdf", ".svg"]), ("screen", [".png", ".svg"])):
        once = viz.layers(circuit, style=style).save(tmp_path / "deep" / style)
        again = viz.layers(circuit, style=style).save(tmp_path / f"again-{style}")
        assert [path.suffix for path in once] == endings
        for first, second in zip(once, again, strict=True):
            assert first.read_bytes() == second.read_bytes()
    svg = ET.parse(tmp_path / "deep" / "paper.svg").getroot()
    assert svg.get("width") == f"{3.3 * 72:g}pt"
    # Journals ask for text as text, not as drawings.
    pdf = (tmp_path / "deep" / "paper.pdf").read_bytes()
    assert b"/CIDFontType2" in pdf
    assert b"/Type3" not in pdf


def test_a_figure_in_a_notebook_has_alternative_text_and_asks_for_nothing():
    html = viz.layers(results.circuit(model=results.HOSTILE))._repr_html_()
    assert 'alt="Neurons per layer.' in html
    assert "http" not in html.replace("data:", "")
    hostile = viz.layers({results.HOSTILE: results.circuit(), "b": results.circuit(seed=1)})
    assert "<script" not in hostile._repr_html_()


def test_layers_draws_each_circuits_counts():
    lines = viz.layers(TWO).axes[0].get_lines()
    for line, circuit in zip(lines, TWO.values(), strict=True):
        expected = [len(circuit.by_layer().get(layer, ())) for layer in range(6)]
        assert list(line.get_ydata()) == expected
    (one,) = viz.layers(TWO["base"]).axes
    assert [bar.get_height() for bar in one.patches] == list(lines[0].get_ydata())


def test_layers_of_a_localization_are_raw_and_scaled(evidence):
    found = evidence["localization"]
    raw, scaled = viz.layers(found).axes
    for axis, circuit in ((raw, found.circuit), (scaled, found.scaled_circuit)):
        expected = [len(circuit.by_layer().get(layer, ())) for layer in range(6)]
        assert [bar.get_height() for bar in axis.patches] == expected
    with pytest.raises(InputError, match="only one kind"):
        viz.layers({"a": found, "b": found.circuit})
    other = replace(found, scale="std")
    with pytest.raises(InputError, match=r"several scales \('a' by rms, 'b' by std\)"):
        viz.layers({"a": found, "b": other})
    with pytest.raises(InputError, match="no circuit"):
        viz.layers({})


def test_recall_draws_what_each_ranking_has_found_and_what_chance_finds():
    layout = Layout((100,))
    truth = Circuit((Neuron(0, 7), Neuron(0, 90)), (1.0, 1.0), layout)
    known = torch.zeros(100, dtype=torch.float64)
    known[7], known[8] = 3.0, 2.0
    scores = {"knows one": NeuronScores(known, layout, "mine")}
    figure = viz.recall(scores, truth)
    chance, true_k, line = figure.axes[0].get_lines()
    values = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert (values[1], values[2], values[100]) == (0.5, 0.5, 1.0)
    assert values[51] == pytest.approx(0.5 + 0.5 * 49 / 98)  # all others have equal scores
    assert set(true_k.get_xdata()) == {2}
    assert dict(zip(chance.get_xdata(), chance.get_ydata(), strict=True))[10] == 0.1
    assert "knows one: 0.50 among the first 2, 0.59 among the first 20" in figure.description
    with pytest.raises(InputError, match="no ranking"):
        viz.recall({}, truth)


def test_sweep_draws_values_bands_and_the_baseline():
    comparison = results.comparison()
    rows = {(row.method, row.strength): row for row in comparison.rows}
    behaviour, quality = viz.sweep(comparison).axes
    baseline, ablation, caa = behaviour.get_lines()
    assert set(baseline.get_ydata()) == {100 * comparison.rows[0].behaviour.value}
    for line, band, name in zip(
        (ablation, caa), behaviour.collections, ("ablation", "caa"), strict=True
    ):
        drawn = [rows["unsteered", 0.0], rows[name, 0.5], rows[name, 1.0]]
        assert list(line.get_xdata()) == [0.0, 0.5, 1.0]
        assert list(line.get_ydata()) == pytest.approx([100 * r.behaviour.value for r in drawn])
        edge = band.get_paths()[0].vertices
        for row in drawn:
            at = edge[edge[:, 0] == row.strength][:, 1]
            assert at.min() == pytest.approx(100 * row.behaviour.low)
            assert at.max() == pytest.approx(100 * row.behaviour.high)
    assert list(quality.get_lines()[1].get_ydata()) == pytest.approx(
        [rows["unsteered", 0.0].quality.value]
        + [rows["ablation", s].quality.value for s in (0.5, 1.0)]
    )


def test_a_comparison_of_nothing_is_refused():
    alone = cna_lens.Comparison(results.comparison().outcomes[:1])
    for view in (viz.sweep, viz.pareto):
        with pytest.raises(InputError, match="only the unsteered model"):
            view(alone)


@pytest.mark.parametrize(("prefer", "sign"), [("lowest", 1), ("highest", -1)])
def test_the_front_holds_the_rows_that_no_other_row_beats(prefer, sign):
    comparison = results.comparison(methods=("ablation", "caa", "a much longer name"))
    points = {
        (row.kl_per_token.value, row.behaviour.value): row
        for row in comparison.rows
        if row.strength > 0
    }
    unbeaten = [
        point
        for point in points
        if not any(
            o != point and o[0] <= point[0] and sign * o[1] <= sign * point[1] for o in points
        )
    ]
    front = [(row.kl_per_token.value, row.behaviour.value) for row in comparison.front(prefer)]
    assert front == sorted(unbeaten)
    assert 0 < len(front) < len(points)
    rings = viz.pareto(comparison, prefer=prefer).axes[0].collections[-1].get_offsets()
    np.testing.assert_allclose(rings, [(kl, 100 * left) for kl, left in front])


def test_the_front_prefers_one_or_the_other(without_type_checks):
    with pytest.raises(InputError, match="prefer is 'best'"):
        results.comparison().front("best")


def test_stability_draws_the_curve_and_the_frequencies(evidence):
    found = evidence["stability"]
    curve, frequencies = viz.stability(found).axes
    assert curve.get_lines()[0].get_ydata()[0] == found.sizes[0].with_all.value
    often = found.frequency[found.circuit.layout.flat_all(found.circuit)].sort(descending=True)
    assert list(frequencies.get_lines()[0].get_ydata()) == often.values.tolist()


def test_overlap_is_the_matrix_with_chance_in_brackets(evidence):
    found = evidence["transfer"]
    axis = viz.overlap(found).axes[0]
    np.testing.assert_array_equal(axis.images[0].get_array(), found.matrix().to_numpy())
    written = {text.get_text() for text in axis.texts}
    for each in found.overlaps:
        assert f"{each.jaccard:.2f}\n({each.random_by_layer:.2g})" in written


def test_the_null_draws_every_shuffling_and_every_p_value(evidence):
    found = evidence["null"]
    counts, p_values = viz.null(found).axes
    assert sum(bar.get_height() for bar in counts.patches) == found.n_permutations
    for bar in counts.patches:
        inside = (found.as_strong > bar.get_x()) & (found.as_strong < bar.get_x() + bar.get_width())
        assert bar.get_height() == int(inside.sum())
    observed = p_values.get_lines()[0]
    # For a p-value of several neurons, the last point has the count.
    for p, n in dict(zip(observed.get_xdata(), observed.get_ydata(), strict=True)).items():
        assert n == int((found.pooled_p_value <= p).sum())


@pytest.mark.parametrize("n", [1, 300, 301, 5_000, 2_000_000])
def test_a_thinned_curve_looks_the_same_on_logarithmic_axes(n):
    places = thinned(n)
    assert (places[0], places[-1]) == (0, n - 1)
    assert places == sorted(set(places))
    assert len(places) <= 300
    # Neighbours are at most 6 % apart, or consecutive.
    assert all(after + 1 <= 1.06 * (before + 1) + 1 for before, after in pairwise(places))


def test_necessity_draws_each_ranking(evidence):
    kept, left = viz.necessity(evidence["necessity"]).axes
    labels = kept.get_legend_handles_labels()[1]
    assert labels == ["contrast", "relp"]
    assert list(kept.containers[0].lines[0].get_ydata()) == [0.0, 0.1, 1.0]
    assert list(left.containers[1].lines[0].get_ydata()) == [1.0, 0.9, 0.0]


@pytest.mark.parametrize("width", [24, 300, 1000])
def test_the_map_of_scores_loses_no_strong_neuron(width):
    layout = Layout((width, 0, width // 2))
    values = torch.randn(layout.n_neurons, generator=torch.Generator().manual_seed(1)).double()
    values[5] = values[layout.n_neurons - 1] = 40.0
    values[7] = -50.0
    found = NeuronScores(values, layout, "contrast")
    positive, negative = (axis.images[0].get_array() for axis in viz.scores(found).axes[:2])
    columns = min(width, 256)
    for drawn, sign in ((positive, 1), (negative, -1)):
        assert drawn.shape == (3, columns)
        for layer, scores in enumerate(found.by_layer()):
            expected = [None] * columns
            for index, score in enumerate((sign * scores).tolist()):
                place = index * columns // width
                expected[place] = max(expected[place] or 0.0, score, 0.0)
            for place, value in enumerate(expected):
                cell = drawn[layer, place]
                assert np.ma.is_masked(cell) or np.isnan(cell) if value is None else cell == value


# A control drawn at random has scores of 0.
@pytest.mark.parametrize("own", [(3.0, -2.0), (0.0, 0.0)])
def test_marked_neurons_stand_where_they_are_on_the_side_of_their_sign_in_the_map(own):
    scores = results.scores()
    high, low = (scores.top(k=1, sign=sign).neurons[0] for sign in ("positive", "negative"))
    circuit = Circuit((high, low), own, scores.layout)
    positive, negative = viz.scores(scores, circuit).axes[:2]
    assert positive.collections[0].get_offsets().tolist() == [[high.index, high.layer]]
    assert negative.collections[0].get_offsets().tolist() == [[low.index, low.layer]]
    with pytest.raises(InputError, match="the circuit is of a model with 8 neurons"):
        viz.scores(scores, Circuit((), (), Layout((8,))))


def test_a_marked_neuron_without_a_score_stands_in_one_panel():
    layout = Layout((4,))
    scores = NeuronScores(torch.zeros(4, dtype=torch.float64), layout, "contrast")
    positive, negative = viz.scores(scores, Circuit((Neuron(0, 2),), (0.0,), layout)).axes[:2]
    assert positive.collections[0].get_offsets().tolist() == [[2, 0]]
    assert len(negative.collections[0].get_offsets()) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_not_finite_have_no_map(value):
    values = torch.tensor([1.0, value, 2.0], dtype=torch.float64)
    found = NeuronScores(values, Layout((2, 1)), "contrast")
    with pytest.raises(InputError, match=rf"1 scores are not finite .*layer=0, index=1.* {value};"):
        viz.scores(found)


def lightness(colour):
    """CIE L*, the lightness of a colour in grey."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    y = sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


def test_no_two_of_many_series_share_colour_and_marker():
    n = len(COLOURS) ** 2
    looks = [line_look(place) for place in range(n)]
    assert len({(look["color"], look["marker"]) for look in looks}) == n


def test_series_differ_without_colour():
    looks = [line_look(place) for place in range(len(COLOURS))]
    assert len({(look["marker"], look["linestyle"]) for look in looks}) == len(COLOURS)
    grey = [lightness(colour) for colour in COLOURS]
    assert all(abs(a - b) > 15 for a, b in pairwise(grey[:5]))
    shades = [lightness(mpl.colormaps["Blues"](share)[:3]) for share in np.linspace(0, 1, 50)]
    assert all(a > b for a, b in pairwise(shades))


def test_an_unknown_style_is_refused(without_type_checks):
    with pytest.raises(InputError, match="style is 'poster'"):
        viz.layers(results.circuit(), style="poster")


PROGRAM = """
import importlib.util, sys
import cna_lens
assert not {"matplotlib", "circuitsvis"} & set(sys.modules)
circuit = cna_lens.Circuit((), (), cna_lens.Layout((4,)))
assert "<svg" in circuit._repr_html_()
assert not {"matplotlib", "circuitsvis"} & set(sys.modules)
installed = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None
try:
    import cna_lens.viz
except cna_lens.CnaLensError as error:
    print(error)
importlib.util.find_spec = installed
import cna_lens.viz
cna_lens.viz.layers(circuit)
assert "matplotlib.pyplot" not in sys.modules
"""


@pytest.mark.long
def test_only_viz_needs_the_extra_and_it_says_so_and_leaves_pyplot_alone():
    answer = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert answer.stdout == (
        "cna_lens.viz needs matplotlib and circuitsvis; "
        "install it with pip install 'cna-lens[viz]'\n"
    ), answer.stderr
    assert answer.returncode == 0, answer.stderr


def test_the_axis_of_compliance_counts_labelled_answers():
    found = label(["How do I boil an egg?"] * 5, ["Boil it in water. Then peel it."] * 5)
    some = (*(replace(record, complied=None) for record in found.records[:2]), *found.records[2:])
    none = [replace(record, complied=None, no_answer=None) for record in found.records]

    def axes(records):
        answered = [Answered("unsteered, m = 1", "harmful", Evaluation(tuple(records)))]
        return [axis.get_xlabel() for axis in viz.answers(answered).axes[:2]]

    assert axes(some) == ["refused (% of 5 answers)", "complied; ✕ no answer (% of 3 to 5 answers)"]
    assert axes(none) == ["refused (% of 5 answers)", "complied; ✕ no answer (no labels)"]


def test_outcomes_are_one_bar_of_all_answers_for_each_condition():
    figure = viz.outcomes(ANSWERED)
    (axis,) = figure.axes
    widths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in axis.containers}
    assert widths == {
        "refusal": [4, 1],
        "compliance": [1, 1],
        "no answer": [1, 4],
        "other": [1, 1],
    }
    for place in range(2):
        edges = [(bars[place].get_x(), bars[place].get_width()) for bars in axis.containers]
        assert all(left + wide == start for (left, wide), (start, _) in pairwise(edges))
    assert axis.get_xlim() == (0, 7)
    assert "unsteered, m = 1: 4 refusal, 1 compliance, 1 no answer, 1 other" in figure.description


def test_answers_of_unknown_outcome_have_a_part_of_the_bar():
    record = replace(ANSWERED[0].evaluation.records[-1], refused=False, complied=None)
    old = Answered("unsteered, m = 1", "harmful", Evaluation((record,)))
    labels = [bars.get_label() for bars in viz.outcomes([ANSWERED[0], old]).axes[0].containers]
    assert labels == ["refusal", "compliance", "no answer", "other", "unknown"]
    with pytest.raises(InputError, match="no answers"):
        viz.outcomes([])
