"""The paper's tables and figures, one in each module."""
