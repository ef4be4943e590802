"""An OpenAI-compatible endpoint: its settings, its client, JSON in its replies."""
