"""What foveal's own attentions promise, tried on somebody else's: `foveal check`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
