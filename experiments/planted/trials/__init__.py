"""Attributions from the literature, tried on the planted models for tuning."""
