"""Where commands run: on this machine, on a Ray cluster, or as jobs of Slurm."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
