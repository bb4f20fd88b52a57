"""The host's training on several devices, where there is none: two processes on the CPU.

All is the host's own but what it asks of a GPU: which device a process has, and the library that they talk through.
"""

import os

from torch import distributed, nn

from foveal.hosts.ultralytics import recorder


class _OnCPU(nn.parallel.DistributedDataParallel):
    def __init__(self, module, device_ids=None, **more):
        super().__init__(module, **more)


class _Both:
    def __init__(self, cfg=recorder.grammar.DEFAULT_CFG, overrides=None, _callbacks=None):
        super().__init__(cfg, overrides, _callbacks)
        self.world_size, self.ddp = 2, "LOCAL_RANK" not in os.environ

    def _setup_ddp(self):
        nn.parallel.DistributedDataParallel = _OnCPU
        distributed.init_process_group("gloo", rank=recorder.RANK, world_size=self.world_size)


class DetectionTrainer(_Both, recorder.DetectionTrainer):
    """The detector's, by two processes."""
