from . import checked_export as checked_export
from .checked_export import by as by
from .checked_export import export as export
from .fusion import Zero as Zero
from .fusion import fuse as fuse
from .fusion import left as left
