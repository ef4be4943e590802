"""Attestations: a model compared with its fingerprint, check by check."""
