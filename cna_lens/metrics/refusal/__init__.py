"""Detecting refusals by the words of an answer."""
