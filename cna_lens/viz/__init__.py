"""Views of results: figures, and pages for a notebook."""
