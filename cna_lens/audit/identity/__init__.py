"""Is an endpoint's model the one that was measured? Sensitive canaries, and a sequential test."""
