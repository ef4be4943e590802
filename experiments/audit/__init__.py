"""How well does the audit tell a tampered model from one that has merely changed?"""
