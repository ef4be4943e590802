"""What an audit measures on a model."""
