"""The matched pair: how the demo model is taught to refuse, and the effect of the training."""
