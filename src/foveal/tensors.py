"""What several wings ask of tensors and of modules that hold them."""

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .errors import UserError

_Result = TypeVar("_Result")


def memory_format(x: Tensor) -> torch.memory_format:
    """Channels_last if x is that and not contiguous as well, else contiguous."""
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def require_device(device: object) -> None:
    """Refuse GPUs where torch sees fewer; other devices are left to whoever uses them.

    Args:
        device: as Ultralytics takes it: "cpu", "0", "0,1", "cuda", "cuda:1" and others.

    Raises:
        UserError: a GPU that is not there.
    """
    numbers = re.sub(r"cuda:|[()\[\]' ]", "", str(device).lower())
    wanted, seen = numbers.count(",") + 1, torch.cuda.device_count()
    if re.fullmatch(r"cuda|\d+(,\d+)*", numbers) and seen < wanted:
        said = f"there is no device {str(device)!r}: torch sees {f'{seen} GPU' if seen else 'no GPU'} here"
        raise UserError(said, "device cpu is always there; foveal doctor says what torch sees")


def sides(shape: Iterable[int]) -> str:
    """The sides of a tensor, of a map or of an image, as 640 x 480."""
    return " x ".join(map(str, shape))


def is_finite(module: nn.Module) -> bool:
    """Whether all tensors of a module's state are."""
    return all(bool(tensor.isfinite().all()) for tensor in module.state_dict().values())


def digests(module: nn.Module) -> dict[str, str]:
    """A short digest of each tensor of a module's state, by name, in fp32."""
    found = {name: tensor.float().cpu().contiguous().numpy() for name, tensor in module.state_dict().items()}
    return {name: hashlib.blake2b(array.tobytes(), digest_size=8).hexdigest() for name, array in found.items()}


@torch.no_grad()
def counted(call: Callable[[], _Result]) -> tuple[_Result, int]:
    """What a call returns, and its floating-point operations by torch's formulas; a multiply-accumulate counts as two.

    Convolutions and matrix products have formulas; element-wise work, norms and pooling have none and count as nothing.
    Not under `torch.inference_mode`, in which operations that are made of others arrive whole, and have none.
    """
    with _Counter() as counter:  # type: ignore[no-untyped-call]  # torch wrote its constructor without types
        result = call()
    return result, counter.flops


class _Counter(TorchDispatchMode):
    """What torch's own `FlopCounterMode` counts without gradients, which loads torch's compiler and SymPy for it."""

    supports_higher_order_operators = True
    flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the compiler is loaded, 2 seconds of a core, so that it can be told to skip this

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(getattr(func, "_overloadpacket", func)):
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out
