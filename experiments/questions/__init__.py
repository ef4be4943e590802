"""What the paper leaves open, one question a module."""
