"""CircuitsVis pages."""
