"""The command `audit`: a gate in a pipeline, by its exit code."""

from cna_lens.cli.audit.commands import app

__all__ = ["app"]
