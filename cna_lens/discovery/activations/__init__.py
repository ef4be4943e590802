"""Activations of neurons on prompts: read, and kept as means or prompt by prompt."""
