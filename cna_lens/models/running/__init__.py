"""Forward passes over many prompts, and answers."""
