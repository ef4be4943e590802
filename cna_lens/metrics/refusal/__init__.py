"""What counts as a refusal."""
