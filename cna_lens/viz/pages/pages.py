"""Pages: HTML that works offline, with CircuitsVis's script once on each page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Protocol, runtime_checkable

from cna_lens.errors import InputError
from cna_lens.results.files import write_atomically
from cna_lens.results.rendering import escaped, styled


@runtime_checkable
class Shown(Protocol):
    """An object that shows itself in a notebook."""

    def _repr_html_(self) -> str: ...


class Page:
    """HTML that shows itself in a notebook and saves itself as a file that needs no network.

    Attributes:
        bodies: the HTML of each view, without the scripts that all share.
        title: of the file.
    """

    def __init__(self, bodies: Sequence[str], title: str = "cna_lens", *, scripts: bool) -> None:
        """Take the HTML of the views, and whether they need CircuitsVis."""
        self.bodies = tuple(bodies)
        self.title = title
        self.scripts = scripts

    def _repr_html_(self) -> str:
        """The page for a notebook, with CircuitsVis unless `share_bundle` has added it already."""
        return "".join(self.bodies) + (_scripts(_Shared.bundle) if self.scripts else "")

    def save(self, path: str | Path) -> Path:
        """Write a file that a browser opens offline.

        Args:
            path: the file.

        Returns:
            The same path.
        """
        body = "".join(self.bodies) + (_scripts(shared=False) if self.scripts else "")
        write_atomically(
            Path(path),
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{escaped(self.title)}</title></head><body>{body}</body></html>\n",
        )
        return Path(path)

    def __repr__(self) -> str:
        """One useful line."""
        views = "1 view" if len(self.bodies) == 1 else f"{len(self.bodies)} views"
        return f"Page({self.title!r}, {views})"


def page(*views: object, title: str = "cna_lens") -> Page:
    """Put several views, figures and results below each other, with CircuitsVis's script once.

    >>> from cna_lens.viz import promotes
    >>> circuit = Circuit((Neuron(1, 3),), (1.0,), tiny_layout)
    >>> page(circuit, promotes(tiny_model, (1, 3)), title="my circuit")
    Page('my circuit', 2 views)

    Args:
        views: results, figures, pages, or other objects that show themselves in a notebook.
        title: of the file that `save` writes.

    Raises:
        InputError: no view, or an object that does not show itself.
    """
    if not views:
        raise InputError("a page needs at least one view")
    bodies: list[str] = []
    for view in views:
        if not isinstance(view, Shown):
            raise InputError(
                f"a {type(view).__name__} does not show itself; give it to a view first"
            )
        bodies.extend(view.bodies if isinstance(view, Page) else [view._repr_html_()])  # pyright: ignore[reportPrivateUsage]
    scripts = any(isinstance(view, Page) and view.scripts for view in views)
    return Page(bodies, title, scripts=scripts)


def share_bundle() -> Page:
    """Put CircuitsVis's script (1.3 MB) into a notebook once; later views leave it out.

    Without this call every view carries the script and works wherever it is copied. With it a
    notebook of nine views has 1.3 MB instead of 12, and the views need the cell of this call.
    `save` and `page` always write a file that stands alone.

    Returns:
        The page that must stay in the notebook, as the last line of a cell.
    """
    _Shared.bundle = True
    note = '<p class="cna-note">CircuitsVis is loaded for the views of this page.</p>'
    return _Bundle([styled(note)], scripts=True)


class _Shared:
    """Whether the notebook of this process holds the script in a cell of its own."""

    bundle = False


class _Bundle(Page):
    """The page that carries the script for others."""

    def _repr_html_(self) -> str:
        return "".join(self.bodies) + _scripts(shared=False)


def view_scripts() -> tuple[str, str]:
    """The scripts that a page needs once after its views: CircuitsVis, and its caller."""
    return _bundle(), (files("cna_lens.viz.pages") / "mount.js").read_text(encoding="utf-8")


def _scripts(shared: bool) -> str:
    return "".join(f"<script>{script}</script>" for script in view_scripts()[shared:])


@cache
def _bundle() -> str:
    """CircuitsVis's own build as a classic script of 1.3 MB that can stand in a page."""
    source = (files("circuitsvis") / "dist" / "cdn" / "iife.js").read_text(encoding="utf-8")
    # The browser's developer tools would ask the network for the source map.
    code = re.sub(r"//# sourceMappingURL=\S*", "", source)
    # The build holds this tag in a string, where the escaped form has the same meaning.
    return f"if (!window.CircuitsVis) {{\n{code}\n".replace("</script", "<\\/script") + (
        "window.CircuitsVis = CircuitsVis;\n}"
    )
