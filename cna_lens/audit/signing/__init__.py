"""Signatures of fingerprints and of models, with keys of the operator."""
