"""Which method takes refusals away, or adds them, at least cost?"""
