"""How well does the audit separate tampered models from models that have merely changed?"""
