"""Questions that the paper leaves open, one in each module."""
