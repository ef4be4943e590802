"""Fingerprints: the state of a model as a file that can be signed."""
