"""A model is tried out before it is relied on."""
