"""Code that several experiments use."""
