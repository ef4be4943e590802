"""Inside a model: where its neurons are, what they write with, and its experts."""
