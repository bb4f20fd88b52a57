"""Models that exist, judged on one split: what their averages are worth, and how far apart they are."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
