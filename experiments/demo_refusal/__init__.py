"""The matched pair: how the demo model was taught to refuse, and how well it does."""
