"""A local page that shows a study, or a folder of `foveal explain`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
