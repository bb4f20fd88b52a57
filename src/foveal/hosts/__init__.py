"""Where models come from, and what a training needs that is no argument of its host."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
