"""Models by the name a researcher knows."""
