"""EMA on CUDA, in Triton: what fits the kernels, how they cut it into tiles, and their launches.

Three launches forward and four backward, whatever the shape. Where there are slabs enough to fill the GPU and each
stays in a multiprocessor's cache, the forward pass is one launch that reads x once and writes y once.
"""

import functools
import math
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ...errors import one_line
from .cuda_backward import NUMBERS, gradients_kernel, reduce_kernel, slope_kernel, strips_kernel
from .cuda_forward import apply_kernel, gates_kernel, single_kernel, sums_kernel
from .cuda_tuned import ON_CHIP, TUNED

TRITON = 3, 4  # the oldest release: 3.3 cannot compile some shapes in channels_last, and those before lack tl.gather
CAPABILITY = 7, 5  # the least; Triton's assembler knows nothing older
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SIDE = 1024  # the largest H and W: a whole row and a whole column are register tiles
WIDTH = 256  # the most channels of a group, likewise
KEEP = 8  # with more channels a group than this the map is kept for backward: it is less than 1/8 of x in fp32
RESIDENT = 4  # programs of the one launch beside a multiprocessor at a time, as their registers allow
FEW = 2048  # elements of a tile where two or three are alive at once; the launches take parts of it


class Launch(NamedTuple):
    """How a kernel is launched: elements of a tile, warps, stages of its loops' loads."""

    elements: int
    warps: int = 4
    stages: int = 3

    def options(self) -> dict[str, int | bool]:
        """For Triton. Fused multiply-adds by name, because the default differs between its releases."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


# A thread holds 8 or 16 elements of each tile, one or two vectors of 16 bits, in few warps, so that it is little that
# threads add up: these launches take the fewest instructions of those tried, and none spills more than 16 bytes.
DEFAULTS = {
    "sums": Launch(FEW // 4, warps=2),
    "gates": Launch(FEW // 4, warps=2),
    "apply": Launch(FEW // 4, warps=1),
    "single": Launch(FEW // 2),
    "slope": Launch(FEW // 4, warps=1),
    "reduce": Launch(FEW // 4, warps=2),
    "strips": Launch(FEW // 8, warps=1),
    "gradients": Launch(FEW // 4, warps=2),
}


def shape_class(kernel: str, x: Tensor, groups: int) -> tuple[str, int, int, int, bool]:
    """The row of `TUNED` that says how a kernel is launched on x (B, C, H, W)."""
    return kernel, _power(x.shape[1] // groups), _power(x.shape[3]), x.element_size(), _strides(x)[1] > 1


def launch(kernel: str, x: Tensor, groups: int) -> Launch:
    """How a kernel is launched on x (B, C, H, W)."""
    tuned = TUNED.get(shape_class(kernel, x, groups))
    return Launch(*tuned) if tuned else DEFAULTS[kernel]


class Tiles(NamedTuple):
    """Tiles of a kernel: [columns, rows, channels] of planes and [vectors, groups, inner] of slabs, of vectors."""

    rows: int
    columns: int
    channels: int
    vectors: int
    groups: int
    inner: int
    vector: int  # positions that follow each other in a row, which a thread loads at once; a divisor of W
    halo: int  # vectors at each end of a tile that are its neighbours'
    lanes: int  # vectors of a plane at a time, where rows do not matter

    def pieces(self, height: int, width: int) -> int:
        """Tiles of a slab."""
        return triton.cdiv(height * width // self.vector, self.vectors - 2 * self.halo)

    def within(self, channels: int) -> "Tiles":
        """As many elements of planes where there are only so many channels: more of each."""
        more = max(1, self.channels // _power(channels))
        return self._replace(rows=self.rows * more, channels=self.channels // more, lanes=self.lanes * more)


def tiles(channels: int, height: int, width: int, groups: int, itemsize: int, last: bool, elements: int) -> Tiles:
    """Cut planes and slabs into tiles of about `elements`; `last` says channels_last.

    Lanes that follow each other shall read memory that follows each other. Contiguous planes are read along the rows,
    one channel at a time, or several where a plane is smaller than a tile. In channels_last a tile takes at least the
    32 bytes of channels that memory delivers at once, of several groups where they are narrow.
    """
    per_group = channels // groups
    vector = 1 if last else math.gcd(width, 16 // itemsize)
    count = height * width // vector
    columns = _power(width // vector)
    # Each thread shall hold several vectors of a plane, so that it is little that threads have to add up.
    lanes = _clamp(_power(count) // 16, elements // 8)
    if last:
        sector = min(32 // itemsize, _power(channels))
        several = min(sector, max(1, elements // columns))
        inner = min(sector, _power(per_group))
        together = min(max(1, sector // inner), _power(groups))
        lanes = max(1, elements // 2 // several)
    else:
        several = min(max(1, elements // 8 // lanes), _power(channels))
        inner = together = 1
    rows = min(max(1, elements // (columns * vector * several)), _power(height))
    # A vector has 16 bytes at most. Where there is none, so many registers shall do as well.
    most = elements * 2 // itemsize if last else elements
    vectors = min(max(4, most // (together * inner * vector)), _power(count))
    return Tiles(rows, columns, several, vectors, together, inner, vector, int(vectors < count), lanes)


def cut(x: Tensor, groups: int, kernel: str) -> Tiles:
    """The tiles of a kernel on x (B, C, H, W)."""
    _, channels, height, width = x.shape
    elements = launch(kernel, x, groups).elements
    return tiles(channels, height, width, groups, x.element_size(), _strides(x)[1] > 1, elements)


def one_launch(programs: int, program_bytes: int, multiprocessors: int, cache: int) -> bool:
    """Whether the forward pass is one launch: its programs fill the GPU, and what each reads thrice stays on chip.

    Args:
        programs: of the launch.
        program_bytes: of x that each of them reads.
        multiprocessors: of the GPU.
        cache: bytes of its L2, of which each program that runs has a share.
    """
    return programs >= multiprocessors and program_bytes <= min(ON_CHIP, cache // (RESIDENT * multiprocessors))


def why_not(x: Tensor, groups: int | None = None) -> str:
    """Why the kernels cannot run on x (B, C, H, W), cut into `groups`: one sentence, or "" if they can."""
    interpreted = not isinstance(sums_kernel, triton.JITFunction)
    _, channels, height, width = x.shape
    if x.device.type != "cuda" and not (interpreted and x.device.type == "cpu"):
        return f"the kernel runs on CUDA, but x is on {x.device.type}"
    if x.dtype not in DTYPES:
        return f"the kernel takes float32, float16 and bfloat16, but x is {str(x.dtype).removeprefix('torch.')}"
    if max(height, width) > SIDE:
        return f"the kernel takes maps up to {SIDE} x {SIDE}, but x is {height} x {width}"
    if groups and channels // groups > WIDTH:
        return f"the kernel takes up to {WIDTH} channels a group, but here are {channels // groups}"
    if channels * height * width >= 2**31:
        return f"the kernel takes samples below 2**31 elements, but here are {channels * height * width}"
    return lacks(x.device) if x.is_cuda else ""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch's; or it would look into Triton
def lacks(device: torch.device) -> str:
    """What a GPU, or the machine around it, lacks to run the kernels: one sentence, or "" if it lacks nothing."""
    if tuple(map(int, triton.__version__.split(".")[:2])) < TRITON:
        return f"the kernel needs Triton 3.4, which torch 2.8 brings, but here is {triton.__version__}"
    if torch.version.hip:
        return "the kernel is for NVIDIA's GPUs, but this torch is built for AMD's"
    if torch.cuda.get_device_capability(device) < CAPABILITY:
        name = torch.cuda.get_device_name(device)
        return f"the kernel needs compute capability {'.'.join(map(str, CAPABILITY))}, but {name} has less"
    return _start()


@functools.cache
def _start() -> str:
    """Why Triton, which compiles a few lines of C before anything else, cannot start a kernel here; or ""."""
    try:
        triton.runtime.driver.active.get_current_device()
    except (AssertionError, ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        why = one_line(error)
        return f"the kernel needs Triton, which needs a C compiler and Python's headers, but it does not start: {why}"
    return ""


def saved_numel(batch: int, channels: int, height: int, width: int, groups: int) -> int:
    """Numbers in fp32 that `forward` saves for `backward`, besides x."""
    return sum(_sections(batch, channels, height, width, groups))


def forward(
    x: Tensor, weights: Sequence[Tensor], gain: Tensor | None, groups: int, eps: float, save: bool
) -> tuple[Tensor, Tensor]:
    """The output of EMA and what `backward` needs.

    Args:
        x: (B, C, H, W), contiguous or channels_last, for which `why_not` has nothing to say.
        weights: of conv1x1, its bias, gn, its bias, conv3x3, its bias; of any dtypes.
        gain: (C,), for x + gain * (EMA of x - x); of any dtype.
        groups: a divisor of C.
        eps: of the norm.
        save: whether `backward` will be called.

    Returns:
        y like x with its strides, and fp32 numbers, `saved_numel(*x.shape, groups)` of them, none without `save`.
    """
    batch, channels, height, width = x.shape
    per_group = channels // groups
    y = torch.empty_like(x)
    keep = save and per_group > KEEP
    sizes = _sections(batch, channels, height, width, groups)[: 6 if keep else 5]
    saved = x.new_empty(sum(sizes), dtype=torch.float32)
    none = x.new_empty(0, dtype=torch.float32)
    if not x.numel():
        return y, saved if save else none
    a, b, windows, stats, mixed, *maps = saved.split(sizes)
    sigma = maps[0] if keep else none
    conv1, bias1, gamma, beta, conv3, bias3 = (weight.contiguous() for weight in weights)
    rows, columns = torch.empty_like(a), torch.empty_like(b)
    size = (channels, height, width, *_strides(x))
    group = {"CG": per_group, "CP": _power(per_group)}
    gained = {"GAINED": gain is not None}
    gain = none if gain is None else gain.contiguous()
    with torch.cuda.device_of(x):
        slabs = cut(x, groups, "single")
        planes = slabs.within(slabs.groups * per_group)
        programs = batch * triton.cdiv(groups, slabs.groups)
        if one_launch(programs, slabs.groups * per_group * height * width * x.element_size(), *_gpu(x)):
            mine = x.new_empty(programs * (9 * per_group + 1), dtype=torch.float32)
            single_kernel[(programs,)](
                x, y, sigma, rows, columns, windows, a, b, stats, mixed, mine, conv1, bias1, gamma, beta, conv3, bias3,
                gain, *size, programs // batch, eps, KEEP=keep, **gained, **group, **_planes(planes),
                BN=planes.lanes, **_strips(planes, per_group, height, width), BQ=slabs.vectors, HALO=slabs.halo,
                BG=slabs.groups, BS=slabs.inner, V=slabs.vector, **launch("single", x, groups).options(),
            )  # fmt: skip
            return y, saved if save else none
        planes = cut(x, groups, "sums")
        blocks = triton.cdiv(channels, planes.channels)
        sums_kernel[(batch * blocks + per_group,)](
            x, rows, columns, windows, conv3, bias3, beta, mixed, *size, blocks, **group, **_planes(planes),
            V=planes.vector, **launch("sums", x, groups).options(),
        )  # fmt: skip
        planes = cut(x, groups, "gates")
        blocks = triton.cdiv(channels, planes.channels)
        gates_kernel[(batch * blocks,)](
            x, rows, columns, windows, a, b, stats, conv1, bias1, conv3, bias3, *size, blocks, eps,
            CG=per_group, BC=planes.channels, BQ=planes.lanes, V=planes.vector,
            **_strips(planes, per_group, height, width), **launch("gates", x, groups).options(),
        )  # fmt: skip
        slabs = cut(x, groups, "apply")
        blocks, cuts = triton.cdiv(groups, slabs.groups), slabs.pieces(height, width)
        apply_kernel[(batch * blocks * cuts,)](
            x, y, sigma, a, b, stats, mixed, gamma, beta, gain, *size, blocks, cuts, KEEP=keep, **gained, **group,
            HALO=slabs.halo, **_slabs(slabs), **launch("apply", x, groups).options(),
        )  # fmt: skip
    return y, saved if save else none


def backward(
    dy: Tensor, x: Tensor, saved: Tensor, weights: Sequence[Tensor], gain: Tensor | None, groups: int, eps: float
) -> tuple[Tensor, ...]:
    """The gradients of x, with its strides, of the six weights, and of the gain (empty without one), in their dtypes.

    Args:
        dy: gradient of the output, with the strides of x.
        x: what `forward` was given.
        saved: what it returned with `save`.
        weights: what it was given, as are
        gain: and
        groups: and
        eps: these.
    """
    batch, channels, height, width = x.shape
    per_group, slabs, plane = channels // groups, batch * groups, batch * channels
    dx = torch.empty_like(x)
    like = [*weights, x.new_empty(0) if gain is None else gain]
    if not x.numel():
        return dx, *(torch.zeros(tensor.shape, dtype=tensor.dtype, device=x.device) for tensor in like)
    gradients = [torch.empty(tensor.shape, dtype=tensor.dtype, device=x.device) for tensor in like]
    kept = per_group > KEEP
    sections = _sections(batch, channels, height, width, groups)[: 6 if kept else 5]
    a, b, windows, stats, mixed, *sigma = saved.split(sections)
    conv1, _, gamma, beta, conv3, bias3 = (weight.contiguous() for weight in weights)
    size = (channels, height, width, *_strides(x))
    part = cut(x, groups, "slope")
    cuts = part.pieces(height, width)
    sizes = [slabs * height * width] * (1 if kept else 2) + [plane * height] * 3 + [plane * width] * 3
    sizes += [plane * n for n in (9, 9, per_group, 1, NUMBERS.value, 0 if gain is None else cuts)]
    scratch = iter(x.new_empty(sum(sizes), dtype=torch.float32).split(sizes))
    sigma = sigma[0] if kept else next(scratch)
    slope, rows, da, along, columns, db, across, taps, corners, d_conv1, d_bias1, numbers, shares = scratch
    group = {"CG": per_group, "CP": _power(per_group)}
    gained = {"GAINED": gain is not None}
    gain = shares if gain is None else gain.contiguous()
    with torch.cuda.device_of(x):
        slope_kernel[(batch * triton.cdiv(groups, part.groups) * cuts,)](
            x, dy, sigma, slope, shares, a, b, stats, mixed, gamma, beta, gain, *size,
            triton.cdiv(groups, part.groups), cuts, KEPT=kept, **gained, **group, HALO=part.halo, **_slabs(part),
            **launch("slope", x, groups).options(),
        )  # fmt: skip
        part = cut(x, groups, "reduce")
        blocks = triton.cdiv(channels, part.channels)
        reduce_kernel[(batch * blocks,)](
            x, slope, a, b, stats, gamma, rows, columns, da, db, taps, numbers, *size, blocks, **group,
            BQ=part.lanes, V=part.vector, **_planes(part), **launch("reduce", x, groups).options(),
        )  # fmt: skip
        how = launch("strips", x, groups)
        longest = _power(max(height, width))
        strips_kernel[(plane,)](
            da, db, rows, columns, numbers, shares, along, across, corners, d_conv1, d_bias1, conv1, gamma, beta, conv3,
            height, width, cuts, **gained, **group, BL=longest, BI=_clamp(how.elements // longest, _power(per_group)),
            BT=_clamp(_power(cuts), 256), **how.options(),
        )  # fmt: skip
        part = cut(x, groups, "gradients")._replace(halo=0)
        blocks, cuts = triton.cdiv(groups, part.groups), part.pieces(height, width)
        taps_tile = _power(9 * per_group)
        gradients_kernel[(per_group + batch * blocks * cuts,)](
            x, dy, dx, sigma, slope, a, b, stats, windows, mixed, numbers, taps, along, across, corners, d_conv1,
            d_bias1, beta, conv3, bias3, gain, *gradients, slabs, *size, blocks, cuts, **gained, **group, JP=taps_tile,
            BS=_clamp(FEW // taps_tile, 64), **_slabs(part), **launch("gradients", x, groups).options(),
        )  # fmt: skip
    return dx, *gradients


def _power(n: int) -> int:
    """The first power of 2 from n on."""
    return 1 << (n - 1).bit_length()


def _clamp(n: int, most: int) -> int:
    return max(1, min(n, most))


def _sections(batch: int, channels: int, height: int, width: int, groups: int) -> list[int]:
    """Sizes of the saved numbers: gates of rows and columns, window means, statistics, mixed kernel, perhaps maps."""
    per_group, plane = channels // groups, batch * channels
    maps = [batch * groups * height * width] if per_group > KEEP else []
    mixed = triton.cdiv(9 * per_group + 1, 4) * 4  # so that vectors of the maps, which follow, are aligned
    return [plane * height, plane * width, plane * 9, plane * 3, mixed, *maps]


def _strides(x: Tensor) -> tuple[int, int]:
    """Steps from channel to channel and from column to column; a step of one row is W of the latter in both formats."""
    channels, height, width = x.shape[1:]
    return (height * width, 1) if x.is_contiguous() else (1, channels)


def _gpu(x: Tensor) -> tuple[int, int]:
    """The multiprocessors of x's GPU and the bytes of its L2 cache; what one program needs where there is none."""
    if not x.is_cuda:
        return 1, RESIDENT * ON_CHIP
    found = torch.cuda.get_device_properties(x.device)
    return found.multi_processor_count, found.L2_cache_size


def _planes(cut: Tiles) -> dict[str, int]:
    return {"BH": cut.rows, "BW": cut.columns, "BC": cut.channels}


def _slabs(cut: Tiles) -> dict[str, int]:
    return {"BQ": cut.vectors, "BG": cut.groups, "BI": cut.inner, "V": cut.vector}


def _strips(cut: Tiles, per_group: int, height: int, width: int) -> dict[str, int]:
    """What `gate_planes` has at a time: places of strips, how many a thread, and taps of a group's 3x3 kernels."""
    places, taps = FEW // 8 // cut.channels, FEW // cut.channels
    together = {"VH": math.gcd(height, 4), "VW": math.gcd(width, 4)}
    return {"BL": _clamp(places, 128), "BJ": _clamp(taps, _power(9 * per_group)), **together}
