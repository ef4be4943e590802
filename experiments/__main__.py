"""`python -m experiments NAME ...` reproduces a table or figure, or settles a question."""

from __future__ import annotations

from collections.abc import Sequence

from cna_lens.cli import run_app, share_the_machine


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; an error is a message, as it is for `cna-lens`."""
    share_the_machine()
    # OpenMP reads its settings once, when torch is loaded.
    from experiments.command import app

    run_app(app, arguments)


if __name__ == "__main__":
    main()
