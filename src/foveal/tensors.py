"""What several wings ask of tensors and of modules that hold them."""

import torch
from torch import Tensor, nn


def memory_format(x: Tensor) -> torch.memory_format:
    """Channels_last if x is that and not contiguous as well, else contiguous."""
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def is_finite(module: nn.Module) -> bool:
    """Whether all tensors of a module's state are."""
    return all(bool(tensor.isfinite().all()) for tensor in module.state_dict().values())
