from . import ema as ema
