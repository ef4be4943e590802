"""Single tokens: their texts, what neurons do on them, and what they promote."""
