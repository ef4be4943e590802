"""Standard tasks of lm-eval."""
