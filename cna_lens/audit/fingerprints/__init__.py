"""A fingerprint: what a model was, as a file that can be signed."""
