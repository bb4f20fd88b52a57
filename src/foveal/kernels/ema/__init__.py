"""EMA as one operator of torch: C++ for CPUs, Triton for GPUs, and its closed form."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
