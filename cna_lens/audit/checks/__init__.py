"""Checks: one number each from two measurements, and its threshold."""
