"""The Ultralytics that is installed. Whoever needs it first says in a sentence if it is missing or too old."""

from ...errors import UserError
from .releases import OLDEST, too_old

try:
    import ultralytics
except ModuleNotFoundError as missing:
    if missing.name != "ultralytics":
        raise
    raise UserError("Ultralytics is not installed", "pip install 'foveal[yolo]'") from None

if too_old(ultralytics.__version__):
    raise UserError(
        f"Ultralytics {ultralytics.__version__} is older than foveal can work with",
        f"pip install 'ultralytics>={OLDEST}'",
    )
