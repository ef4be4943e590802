"""Models side by side on a Ray cluster."""
