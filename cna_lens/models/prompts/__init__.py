"""Prompts: from files and packaged sets, and as token ids."""
