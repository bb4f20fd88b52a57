"""Two runs that are there already: were they treated alike, and how far apart are they?"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
