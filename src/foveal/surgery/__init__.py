"""Modules put into a model: how they are written, where they go, and how they are attached."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
