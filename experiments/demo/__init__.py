"""Measurements on the demo model and its matched pair."""
