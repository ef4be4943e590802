"""A model: loaded, prompted, looked into, run."""
