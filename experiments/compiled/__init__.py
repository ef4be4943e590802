"""Programs compiled into transformers, whose neurons are known exactly."""
