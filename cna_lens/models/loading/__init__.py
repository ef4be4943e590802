"""Loading models by the names that researchers use."""
