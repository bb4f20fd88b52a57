from .base import Executor as Executor
from .base import Local as Local
from .base import Ray as Ray
