"""Checkpoints, read without running them: what is in them, and whether they may be loaded."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
