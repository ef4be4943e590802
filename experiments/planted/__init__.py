"""Behaviours planted in known neurons of the demo model: trained, checked, packaged."""
