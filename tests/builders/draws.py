"""Numbers for tests, drawn the same everywhere. It needs torch and numpy only."""

import numpy as np
import torch


def draw(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers in fp64 that are the same on every machine and in every release."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))


def drawn_state(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """A value for every name of a state dict: at their initial zeros and ones wrong forms can agree."""
    state = {}
    for offset, (name, shape) in enumerate(sorted(shapes.items())):
        value = 0.7 * draw(1000 + 100 * seed + offset, *shape)
        state[name] = value.square() + 0.3 if name.endswith("running_var") else value
    return state


def filled(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The module with every parameter and statistic drawn anew, weights in proportion to their number of inputs."""
    own = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    drawn = drawn_state({name: tensor.shape for name, tensor in own.items()}, seed)
    for name, tensor in own.items():
        inputs = tensor[0].numel() if name.endswith(".weight") and tensor.dim() > 1 else 1
        tensor.copy_(drawn[name] / inputs**0.5)
    return module
