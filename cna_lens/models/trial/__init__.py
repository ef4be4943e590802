"""Trials of a model before it is used."""
