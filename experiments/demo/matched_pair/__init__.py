"""The matched pair: how the demo model is taught to refuse, and what that has changed."""
