"""Ultralytics, the only door to it: models, trainers, data sets, recorders, and `foveal.add`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
