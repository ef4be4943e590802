"""Requests watched while a model serves them."""
