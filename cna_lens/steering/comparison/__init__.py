"""Every steering method at every strength under one protocol, in one table."""
