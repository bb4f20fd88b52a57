from . import closed_form as closed_form
from . import cpu as cpu
from . import library as library
from .operator import ema as ema
from .operator import flops as flops
from .operator import transformed as transformed
from .operator import why_not as why_not
