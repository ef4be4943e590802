"""Standard tasks by lm-eval."""
