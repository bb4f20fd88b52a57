"""Whether two ways to compute an attention agree: nothing that disagrees is timed.

The truth is the `reference` form in fp64, and what is allowed is twice the reference's own rounding error. A large
batch is a small one over and over: its outputs and input gradients must then repeat, and its parameters' gradients
multiply, so one small batch in fp64 judges batches of any size. That holds for batch norms, too.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..attention import Attention

NUDGES = 8  # of the input, to see how large the rounding errors of the reference can be

Results = tuple[Tensor, ...]


def drawn(
    module: Attention, shape: Sequence[int], batch: int, dtype: torch.dtype, device: torch.device, seed: int
) -> tuple[Attention, Tensor, Tensor]:
    """A copy of the module with other parameters, an input and an output gradient, the same numbers on every device.

    The batch is the smallest that `batch` consists of: a pair if it is even.
    """
    generator = torch.Generator().manual_seed(seed)
    few = batch if batch % 2 else 2
    x, dy = both = torch.randn((2, few, *shape), generator=generator, dtype=torch.float64)
    module = copy.deepcopy(module).double().train()
    module.form = "reference"
    with torch.no_grad():
        # At initial zeros and ones wrong forms can agree. Running statistics leave theirs with a pass in training.
        for p in module.parameters():
            spread = 0.7 / (p[0].numel() if p.dim() > 1 else 1) ** 0.5
            p.copy_(spread * torch.randn(p.shape, generator=generator, dtype=torch.float64))
        module(both.flatten(0, 1))
    return module.to(device, dtype), (1.3 * x + 0.4).to(device, dtype), dy.to(device, dtype)


class Evaluation:
    """What is compared and timed: the output and, in training, gradients of the input and of each parameter.

    Args:
        module: is called as it is, and put into the mode.
        x: is copied.
        dy: gradient of the output.
        training: with gradients.

    Attributes:
        known: tensors that are there before the call.
    """

    def __init__(self, module: nn.Module, x: Tensor, dy: Tensor, training: bool):
        self._module, self._dy, self._training = module.train(training), dy, training
        self._x = x.detach().clone().requires_grad_(training)
        self._leaves = [self._x, *module.parameters()]
        self.known = [*self._leaves, *module.buffers()]

    def __call__(self) -> Results:
        """Run once."""
        out = self._module(self._x)
        if not self._training:
            return (out,)
        return out.detach(), *torch.autograd.grad(out, self._leaves, self._dy, materialize_grads=True)


class Tolerance:
    """Judges results by the reference's.

    Args:
        module: in form "reference".
        x: (B, C, H, W); what is judged ran on this batch, or on a whole number of it.
        dy: gradient of the output.
        training: with gradients.
    """

    def __init__(self, module: nn.Module, x: Tensor, dy: Tensor, training: bool):
        self.training = training
        self._true = Evaluation(copy.deepcopy(module).double(), x.double(), dy.double(), training)()
        self._scales = [max(float(t.abs().max()), float(dy.abs().max())) for t in self._true]
        self._eps = torch.finfo(x.dtype).eps
        self._names = ["output", *(f"gradient of {n}" for n in ("input", *dict(module.named_parameters())))]
        # As in tests/attention/test_contract.py: twice the reference's own rounding error, and a few roundings. Its
        # error is the largest of several, each with the input a rounding off, because in a single run errors can cancel
        # by chance.
        signs = [dy.roll(shift, 1).sign() for shift in range(NUDGES)]
        nudged = [x, *(x * (1 + self._eps * sign) for sign in signs)]
        own = [self._errors(Evaluation(copy.deepcopy(module), near, dy, training)()) for near in nudged]
        self._own = np.max(own, 0)

    def admit(self, results: Results) -> None:
        """Take results of the reference on a whole batch for rounding, too."""
        self._own = np.maximum(self._own, self._errors(results))

    def judge(self, results: Results) -> tuple[str, float | None, float | None]:
        """What disagrees and by how much, or ""; the error of the output; the largest error of a gradient.

        Errors are relative to the largest value of the true tensor or of the output gradient; None if not finite.
        """
        shape, expected = results[0].shape[1:], self._true[0].shape[1:]
        if shape != expected:
            return f"output has shape {tuple(shape)}, not {tuple(expected)}", None, None
        error, allowed = self._errors(results), 2 * self._own + 8 * self._eps
        wrong = [i for i in range(len(error)) if not error[i] <= allowed[i]]  # a NaN is wrong, too
        words = [
            f"{self._names[i]} is off by {error[i]:.1e}, allowed {allowed[i]:.1e}"
            if np.isfinite(error[i])
            else f"{self._names[i]} is not finite"
            for i in wrong[:1]
        ]
        largest = error[0], error[1:].max() if self.training else np.nan
        of_output, of_gradient = (float(e) if np.isfinite(e) else None for e in largest)
        return "".join(words), of_output, of_gradient

    def _errors(self, results: Results) -> np.ndarray:
        few = self._true[0].shape[0]
        times = results[0].shape[0] // few
        errors = []
        for i, (got, true, scale) in enumerate(zip(results, self._true, self._scales, strict=True)):
            parts = got.split(few) if i < 2 else [got / times]  # the first two have the batch
            apart = [float((part - true).abs().max()) if true.numel() else 0.0 for part in parts]
            errors.append(max(apart, key=lambda e: (np.isnan(e), e)) / scale)
        return np.array(errors)
