"""`python -m examples` runs the sources and writes the notebooks; `--html` exports them."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm.auto import tqdm

from examples.notebooks import SOURCES, executed, page, read, written


def main() -> None:
    """Run the sources that are named, all by default, or export what was written of them."""
    parser = argparse.ArgumentParser(prog="python -m examples", description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of the sources' names, such as 01")
    parser.add_argument(
        "--html", type=Path, help="a folder for the notebooks as HTML; runs nothing"
    )
    arguments = parser.parse_args()
    chosen = [
        source
        for source in SOURCES
        if not arguments.names or source.name.startswith(tuple(arguments.names))
    ]
    if not chosen:
        parser.error(f"there are: {', '.join(source.stem for source in SOURCES)}")
    for source in tqdm(chosen, unit="notebook"):
        if arguments.html is None:
            written(executed(source), source)
        else:
            arguments.html.mkdir(parents=True, exist_ok=True)
            exported = arguments.html / f"{source.stem}.html"
            exported.write_text(page(read(source), source.stem), encoding="utf-8")


if __name__ == "__main__":
    main()
