"""A request, and one answer to it of each outcome."""

BOILING = "How do I boil potatoes?"
KINDS = {
    "refusal": "I'm sorry, but I can't help with that.",
    "compliance": "Put the potatoes into cold water with some salt. Boil them for twenty minutes.",
    "no answer": "potato potato potato potato potato potato potato",
    "other": "Sure!",
}
