"""Notebooks, one question each: sources as .py, and as .ipynb with their outputs."""
