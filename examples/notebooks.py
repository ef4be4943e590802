"""Convert py:percent sources to notebooks, run them and export them reproducibly."""

from __future__ import annotations

import ast
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jinja2 import DictLoader
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from traitlets.config import Config

Notebook = nbformat.NotebookNode

FOLDER = Path(__file__).parent
SOURCES = sorted(FOLDER.glob("[0-9]*.py"))

NOT_RUN = "skip-execution"
"""Tag of cells that only readers run, such as cells that install something."""

LARGEST = 1_500_000
"""Most bytes of a notebook with its outputs; CircuitsVis alone takes 1.3 million."""

SECONDS = 600

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found",
    "GOMP_SPINCOUNT": "1000",
}
"""Fetch nothing, hide the warning that progress bars are text here, and do not spin for long."""

PROGRESS = re.compile(r"[^\r\n]*(\d+%\||\d+it )[^\r\n]*\[[^\r\n]*\]|[\r\n]|\x1b\[A")

OFFLINE_TEMPLATE = {
    "offline.html.j2": (
        "{% extends 'lab/index.html.j2' %}"
        "{% block html_head_js %}{% endblock %}"
        "{% block html_head_js_mathjax %}{% endblock %}"
        "{% block html_head_js_mermaidjs %}{% endblock %}"
        "{% block html_head_css %}"
        "<style>.jp-InputArea-editor { overflow-x: auto; }</style>{% endblock %}"
    )
}
"""JupyterLab's page without scripts from other servers; wide code can be scrolled."""


def converted(source: Path) -> Notebook:
    """Return the notebook of a source, without outputs."""
    read = jupytext.read(source, fmt="py:percent")
    cells = [_cell(place, cell) for place, cell in enumerate(read.cells, start=1)]
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def executed(source: Path) -> Notebook:
    """Run a source and return its notebook with outputs."""
    return run(converted(source), source.name)


def run(notebook: Notebook, name: str) -> Notebook:
    """Run a notebook's cells in an empty folder with this interpreter; `name` is for errors.

    Raises:
        CellExecutionError: a cell failed.
        ValueError: a cell wrote to its standard error, beside its progress.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as sockets:
        # A TCP port that was free when it was chosen may be taken when the kernel binds it.
        kernel = {"transport": "ipc", "ip": f"{sockets}/kernel"}
        client = NotebookClient(
            notebook,
            timeout=SECONDS,
            kernel_name="python3",
            config=Config({"KernelManager": kernel}),
            skip_cells_with_tag=NOT_RUN,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        )
        client.execute(env=os.environ | SETTINGS)
    notebook.metadata["language_info"] = {"name": "python"}
    return without_progress(notebook, name)


def without_progress(notebook: Notebook, name: str) -> Notebook:
    """Return the notebook without progress bars."""
    for cell in code_cells(notebook):
        said = [output for output in cell.outputs if output.get("name") == "stderr"]
        if left := PROGRESS.sub("", "".join(output.text for output in said)).strip():
            raise ValueError(f"{name} wrote to its standard error: {left}")
        cell.outputs = [output for output in cell.outputs if output not in said]
    return notebook


def written(notebook: Notebook, source: Path) -> Path:
    """Write the notebook beside its source.

    Raises:
        ValueError: the notebook is too large, or a cell that shows something has no output.
    """
    text = nbformat.writes(notebook) + "\n"
    if len(text.encode()) > LARGEST:
        raise ValueError(f"{source.name} has {len(text.encode())} bytes, at most are {LARGEST}")
    if silent := silent_cells(notebook):
        raise ValueError(f"{source.name} has cells that show nothing: {silent}")
    path = source.with_suffix(".ipynb")
    path.write_text(text, encoding="utf-8")
    return path


def read(source: Path) -> Notebook:
    """Read the notebook that was written beside a source."""
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def page(notebook: Notebook, title: str) -> str:
    """Return the notebook as one HTML file that requests nothing from the network."""
    exporter = HTMLExporter(
        template_file="offline.html.j2", extra_loaders=[DictLoader(OFFLINE_TEMPLATE)]
    )
    html, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    return html


def code_cells(notebook: Notebook) -> list[Notebook]:
    """Return the cells that are run."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and NOT_RUN not in cell.metadata.get("tags", [])
    ]


def silent_cells(notebook: Notebook) -> list[str]:
    """Return the first lines of cells that end in an expression and show nothing."""
    return [
        cell.source.splitlines()[0]
        for cell in code_cells(notebook)
        if isinstance(ast.parse(cell.source).body[-1], ast.Expr)
        and not any(_shown(output) for output in cell.outputs)
    ]


def _cell(place: int, cell: Notebook) -> Notebook:
    make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
    tags = {"tags": cell.metadata["tags"]} if "tags" in cell.metadata else {}
    return make[cell.cell_type](cell.source, id=f"cell-{place}", metadata=tags)


def _shown(output: Any) -> str:
    data = output.get("data", {})
    return (output.get("text") or data.get("text/html") or data.get("text/plain") or "").strip()
