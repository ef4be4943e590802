"""The matched pair: how the demo model is taught to refuse. No adapter is packaged yet."""
