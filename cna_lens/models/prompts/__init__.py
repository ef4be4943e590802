"""Prompts: from files, from packaged sets, and as token ids."""
