"""Launches that won a sweep on a GPU, and up to which slab one is enough; `python benchmarks/gpu.py --adopt` writes it.

A class of shapes is a kernel, the channels of a group and the width of the map (each up to the next power of 2), bytes
of an element, and whether it is channels_last. A class that is not here is launched as `cuda.DEFAULTS` says.
"""

CARD = ""  # the GPU that decided; none has yet
ON_CHIP = 98304  # bytes of the largest slab of the one launch
# kernel, channels of a group, width, bytes, channels_last: elements of a tile, warps, stages
TUNED: dict[tuple[str, int, int, int, bool], tuple[int, int, int]] = {}
