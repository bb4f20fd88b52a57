"""Fused kernels, one operator of torch for each attention that has some."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
