from .base import Executor as Executor
from .local import Local as Local
from .ray import Ray as Ray
from .slurm import AT_ONCE as AT_ONCE
from .slurm import Slurm as Slurm
from .slurm import parameters as parameters
