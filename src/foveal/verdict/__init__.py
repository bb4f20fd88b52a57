"""Is the difference real? Arrays in, intervals and words out; numpy and scipy, and nothing of ours."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
