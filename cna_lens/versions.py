"""The versions of the libraries a result depends on."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def library_versions() -> tuple[tuple[str, str], ...]:
    """Name and version of cna_lens and of what computes for it, in the order of their names."""
    found: list[tuple[str, str]] = []
    for name in ("cna-lens", "torch", "transformer-lens", "transformers"):
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, "unknown"))
    return tuple(found)
