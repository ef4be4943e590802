"""What is found, as data; no model is touched here."""
