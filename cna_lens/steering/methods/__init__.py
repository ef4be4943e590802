"""One steering method a module."""
