"""Pages by CircuitsVis."""
