"""What every attention shares: its card, the choice of the form that runs, and a convolution with its norm."""

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..tensors import count, counted, memory_format

FORMS = ("reference", "fast", "kernel")
PLAIN = FORMS[:2]  # in plain torch operations, for every dtype and device


@dataclass(frozen=True)
class Number:
    """A number that rows of published YAMLs give an attention by its position, after the width.

    Attributes:
        name: the argument of ours that it sets; what copies call it where ours has no such argument.
        usual: the values by which it is told from other numbers. An argument that ours lacks has the one value that
            ours computes with, or values that copies ignore.
    """

    name: str
    usual: tuple[float, ...]


@dataclass(frozen=True)
class Form:
    """One positional form of an attention's row that is in circulation.

    Attributes:
        numbers: in order, after one width, two, or none.
        implies: arguments that copies of this form fix without saying so.
        alone: whether the form is read only where no width stands before it.
    """

    numbers: tuple[Number, ...]
    implies: Mapping[str, object] = field(default_factory=dict)
    alone: bool = False

    def __str__(self) -> str:
        numbers = (f"{slot.name} ({' or '.join(f'{value:g}' for value in slot.usual)})" for slot in self.numbers)
        implied = "".join(f", which implies {name}={value}" for name, value in self.implies.items())
        return f"[{', '.join(numbers)}]{'' if self.alone else ', a width before it or not'}{implied}"


@dataclass(frozen=True)
class Card:
    """What a user should know about an attention before trusting it.

    Attributes:
        name: short name, in commands, YAML files and file names.
        title: the paper's name for it.
        paper: address of the paper.
        year: of publication.
        source: the authors' code, as owner/repository; "" if there is none.
        licence: of that code, none of which is in this package.
        kind: what its gate depends on, e.g. "spatial".
        paper_place: where the authors put it, or what comes nearest in a detector, as `foveal add --at` takes it.
        avoid: when it is a bad idea.
        aliases: other names that model YAMLs use for it.
        constraints: what it asks of its input.
        differs: where code and paper differ, and which of them this is.
        copies: what copies in circulation get wrong.
        rows: the forms that its own row has in published YAMLs.
        inside: arguments that published names of it inside a block imply, such as `C3k2_EMA`.
        notes: what else a user would find out late.
    """

    name: str
    title: str
    paper: str
    year: int
    source: str
    licence: str
    kind: str
    paper_place: str
    avoid: str
    aliases: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    rows: tuple[Form, ...] = ()
    inside: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Attention(nn.Module):
    """A module that re-weighs a feature map: (B, C, H, W) to (B, C, H, W), same dtype, same memory format.

    A subclass has a `card`, takes `channels` first and everything else by keyword, and implements

    - `reference(x)`: the paper, box by box;
    - `fast(x)`: the same function and gradients for less work, in plain torch operations that export;
    - `kernel(x, gain)`: the same once more, fused, if it pays; then also `why_not(x)`, which says where it cannot run;
    - `gates(x)`: what it weighs by, a dict of tensors. Nothing is kept on the module. The names say what each is:
      `spatial` (B, G, H, W), `channel` (B, C'), `rows` (B, C', H), `columns` (B, C', W) and `elements`
      (B, C', H, W) are gates between 0 and 1; `factor` (B, C, H, W) multiplies the input and has no bounds; `received`
      (B, heads, H, W) is the share of all attention that goes to each position. Attentions between positions take
      `matrix=True` and add `attention` (B, ..., queries, keys), whose rows sum to 1.

    Attributes:
        channels: C.
        group_width: of a group of channels, where all groups share the tensors.
        heads: between which the channels are cut.
        qkv: what makes queries, keys and values, where there are heads.
        placed: whether it is part of a model, in which its width was right when it was put there, so that another
            number of channels comes from pruning.
        form: "auto" or one of `FORMS`. All forms share one state dict. A form asked for by name is the one that
            runs, or says why it cannot; "auto" is what `chosen` picks.
    """

    card: ClassVar[Card]
    width_of: ClassVar[tuple[str, int] | None] = None  # the tensor, and its dimension, of as many entries as channels
    heads: int = 1
    qkv: nn.Linear | nn.Conv2d
    placed: bool = False
    renamed: ClassVar[dict[str, str]] = {}  # from the authors' names, or beginnings of names, to ours
    form: str = "auto"
    _writes: ClassVar[str] = ""  # the method that an export writes down in the place of `fast`, if there is one

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls._writes = next((name for name in ("exported", "factor") if _speaks_for(cls, name)), "")

    def __init__(self, channels: int):
        super().__init__()
        if channels < 1:
            raise UserError(f"{type(self).__name__}(channels={channels}): channels must be positive", "channels=64")
        vars(self)["channels"] = channels

    @property
    def channels(self) -> int:
        """C, as the tensors have it: pruning changes them. Without a tensor that tells, what it was built for."""
        if self.width_of is None:
            return vars(self)["channels"]
        name, dim = self.width_of
        return size(functools.reduce(getattr, name.split("."), self), dim)  # type: ignore[arg-type]  # a tensor's name

    @property
    def group_width(self) -> int | None:
        """Channels of a group; None where there are none."""
        return None

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """Run the chosen form.

        Args:
            x: (B, channels, H, W).
            gain: (channels,), to go only so far from x: the output is then `x + gain * (attention(x) - x)`.

        Raises:
            UserError: an unknown form, a kernel that cannot run on x, or an input that is not (B, channels, H, W).
        """
        # A tracer turns sizes into tensors and warns at the comparison; what it traces was checked before.
        tracing = torch.jit.is_tracing()
        if not tracing:
            self._check(x, gain)
            if any(width % self.heads for width in self._cut()):
                raise UserError(
                    f"{self.card.name}: pruning left widths that its {self.heads} heads do not cut into equal parts: "
                    f"{', '.join(map(str, self._cut()))}",
                    "leave this layer out of pruning, or prune it in steps of the heads",
                )
        form = self.chosen(x) if self.form == "auto" else self.form
        if form not in FORMS:
            raise UserError(f"{self.card.name}: no form is named {form!r}", f"forms: auto, {', '.join(FORMS)}")
        if form == "kernel" and self.form == form and (reason := self.why_not(x)):
            raise UserError(f"{self.card.name}: {reason}", 'form="auto" runs everywhere')
        if form == "kernel":
            out = self.kernel(x, gain)
        elif form == "fast" and exporting() and (written := self._written(x, gain)) is not None:
            out = written
        else:
            out = getattr(self, form)(x).to(x.dtype)
            if gain is not None:
                kept = gain.view(-1, 1, 1).to(x.dtype)
                # Runtimes put a constant per channel into the convolution before it, or pass over a map once for it.
                out = out * kept + x * (1 - kept) if exporting() else x + kept * (out - x)
        return out if tracing else out.contiguous(memory_format=memory_format(x))

    def _check(self, x: Tensor, gain: Tensor | None) -> None:
        """Refuse an input of another shape. Where neither a tensor nor a gain has a width, every width is right."""
        channels = x.shape[1] if x.dim() == 4 else 0
        expected = self.channels if gain is None or self.width_of else len(gain)
        if channels and (gain is None or len(gain) == channels):
            group = self.group_width
            if self.width_of is None or channels == expected:
                return
            if group and channels % group == 0 and (self.placed or gain is not None):
                return  # the groups that pruning left share the tensors as before
            if group and (self.placed or gain is not None):
                raise UserError(
                    f"{self.card.name}: of {expected} channels pruning left {channels}, not whole groups of {group}",
                    f"prune in steps of {group}, as with round_to={group} in torch-pruning",
                )
        raise self._wrong_shape(x, expected)

    def _wrong_shape(self, x: Tensor, expected: int) -> UserError:
        return UserError(
            f"{self.card.name}: input has shape {tuple(x.shape)}, but must be (B, {expected}, H, W)",
            f"build it with channels={x.shape[1]}" if x.dim() == 4 else "add the batch dimension: x[None]",
        )

    def _cut(self) -> tuple[int, ...]:
        """The widths that heads cut, none without heads."""
        return (self.channels, size(self.qkv.weight, 0) - 2 * self.channels) if self.heads > 1 else ()

    def chosen(self, x: Tensor) -> str:
        """The form that "auto" stands for on `x`: the kernel where it can run, and `fast` in what is exported."""
        return "fast" if exporting() or self.why_not(x) else "kernel"

    def why_not(self, x: Tensor) -> str:
        """Why the kernel cannot run on `x`, in one sentence, or ""."""
        return f"{self.card.name} has no kernel"

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box; every attention has it."""
        raise NotImplementedError

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """What it weighs by; every attention has it."""
        raise NotImplementedError

    def fast(self, x: Tensor) -> Tensor:
        """The same function for less work; override where one exists."""
        return self.reference(x)

    def kernel(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """The same function, fused with the gain; override where one exists."""
        raise NotImplementedError

    def factor(self, x: Tensor) -> Tensor:
        """What the input is multiplied by, in a shape that broadcasts to it; override where that is all that is done.

        In what is exported a gain blends this, which is often smaller than the map.
        """
        raise NotImplementedError

    def exported(self, x: Tensor, gain: Tensor | None) -> Tensor:
        """The same function, with the gain inside, as other programs run it best; override where `fast` is not that."""
        raise NotImplementedError

    def _written(self, x: Tensor, gain: Tensor | None) -> Tensor | None:
        """What an export writes down in the place of `fast` and a blend; None where it writes these."""
        if self._writes == "exported":
            return self.exported(x, gain).to(x.dtype)
        if gain is None or self._writes != "factor":
            return None
        kept = gain.view(-1, 1, 1)
        return x * (self.factor(x) * kept + (1 - kept)).to(x.dtype)

    def folded(self, gain: Tensor | None = None) -> nn.Module | None:
        """What computes the same at inference for less work, with the gain inside; None where there is nothing."""
        return None

    @classmethod
    def from_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The authors' state dict in our names and shapes, ready for `load_state_dict`.

        Raises:
            UserError: it holds something else than tensors by name, as the whole of a checkpoint does.
        """
        for name, tensor in state_dict.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise UserError(
                    f"{cls.card.name}: {name!r} holds a {type(tensor).__name__}, but a state dict has tensors by name",
                    'give the part of the checkpoint that holds the tensors, often checkpoint["state_dict"]',
                )
        return {_rename(name, cls.renamed): tensor for name, tensor in state_dict.items()}


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that keeps the paper's eps and momentum: a detector sets its own on that exact class."""


class ConvNorm(nn.Module):
    """A convolution and its batch norm, `conv` and `norm` in the state dict.

    Args:
        convolution: without bias unless the paper has both.
        momentum: of the norm's running statistics.
        eps: what the norm adds to the variance.
    """

    def __init__(self, convolution: nn.Conv2d, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__()
        self.conv = convolution
        self.norm = BatchNorm(convolution.out_channels, eps, momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, then normalise."""
        return self.norm(self.conv(x))


def size(tensor: Tensor, dim: int) -> int:
    """A size as a Python number, also while a tracer follows: what it writes down then has the number in it."""
    if not torch.jit.is_tracing():
        return tensor.shape[dim]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return int(tensor.shape[dim])


def exporting() -> bool:
    """Whether what runs is being written down for another program, which knows neither our kernels nor gradients."""
    # Not `torch.onnx.is_in_onnx_export`: whatever writes ONNX traces or exports, and asking loads all of `torch.onnx`.
    return torch.jit.is_tracing() or _is_exporting()


# Before torch 2.7 an export cannot be told from a compilation.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def _speaks_for(cls: type[Attention], name: str) -> bool:
    """Whether a method of `cls` was written for its forms: none was replaced below it. Compilers cannot follow this."""
    homes = {each: next(base for base in cls.__mro__ if each in vars(base)) for each in (name, *PLAIN)}
    return homes[name] is not Attention and all(issubclass(homes[name], homes[form]) for form in PLAIN)


def forms(cls: type[Attention]) -> list[str]:
    """The forms that `cls` has of its own; one that it lacks is answered by `reference`."""
    return [form for form in FORMS if getattr(cls, form) is not getattr(Attention, form)]


def costs(cls: type[Attention], channels: int = 256, size: int = 40, **arguments: Any) -> dict[str, int]:
    """Parameters, and floating-point operations of each form, on a (1, channels, size, size) input.

    A multiply-accumulate counts as two. Convolutions and matrix products are counted, as papers do; element-wise
    work, norms and pooling are not. A kernel does the arithmetic of `fast`.
    """
    module = cls(channels, **arguments).eval()
    x = torch.zeros(1, channels, size, size)
    counts = {"parameters": count(module)}
    for form in PLAIN:
        if form in forms(cls):
            _, flops = counted(functools.partial(getattr(module, form), x))
        counts[f"flops_{form}"] = flops
    return counts


def require_divisor(cls: type[Attention], channels: int, name: str, value: int, multiple: int = 1) -> None:
    """Check that `channels` is a multiple of `value * multiple`, `value` being the argument `name` of `cls`.

    Raises:
        UserError: it is not; the hint names the largest value below that fits.
    """
    if value > 0 and channels > 0 and channels % (value * multiple) == 0:
        return
    fits = [n for n in range(1, min(channels, max(value, 1)) + 1) if channels % (n * multiple) == 0]
    rule = name if multiple == 1 else f"{multiple} * {name}"
    raise UserError(
        f"{cls.__name__}(channels={channels}, {name}={value}): channels must be a positive multiple of {rule}",
        f"{name}={fits[-1]} fits" if fits else f"channels={multiple * 64}, {name}=1 fits",
    )


def require_hidden(cls: type[Attention], channels: int, name: str, value: int, usual: int) -> None:
    """Check that a hidden layer of `channels // value` units has one, `value` being the argument `name` of `cls`.

    Raises:
        UserError: it has none; the hint names `usual`, or the largest value that fits.
    """
    if not 1 <= value <= channels:
        raise UserError(
            f"{cls.__name__}(channels={channels}, {name}={value}): channels // {name} is not positive",
            f"{name}={min(channels, usual)} fits",
        )


def instance_norm(
    x: Tensor, channels: int, eps: float, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Each channel of each sample less its mean, divided by its deviation."""
    # Not F.group_norm, which refuses a single value per channel: a 1 x 1 map is legal here and normalises to 0.
    # Contiguous: of channels_last torch's CPU code takes ten times as long and loses the variance beside a large mean.
    return torch.group_norm(x.contiguous(), channels, weight, bias, eps)


def channel_mean(x: Tensor) -> Tensor:
    """The mean over the channels, (B, 1, H, W)."""
    if not exporting():
        return x.mean(1, keepdim=True)
    # As a convolution, which runtimes compute in the layout of those around it.
    channels = size(x, 1)
    return F.conv2d(x, torch.full((1, channels, 1, 1), 1 / channels, dtype=x.dtype, device=x.device))


def _rename(name: str, renamed: Mapping[str, str]) -> str:
    for theirs, ours in renamed.items():
        if name == theirs or name.startswith(theirs + "."):
            return ours + name[len(theirs) :]
    return name
