"""Audit: is a model, and the way to its answers, still what it was?"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
