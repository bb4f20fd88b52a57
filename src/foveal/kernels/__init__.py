"""Fused kernels, one operator of torch for each attention that has some."""

import torch
from torch import Tensor


def memory_format(x: Tensor) -> torch.memory_format:
    """Channels_last if x is that and not contiguous as well, else contiguous."""
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format
