"""Milliseconds of attentions, and of whole detectors with and without them, measured in turns."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
