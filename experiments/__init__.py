"""Experiments for reviewers, which use the public API only."""
