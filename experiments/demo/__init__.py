"""What was measured on the demo model and its matched pair."""
