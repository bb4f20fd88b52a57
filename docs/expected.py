"""What EMA's kernels should take on an H100, from counts alone: a prediction, to be compared with what is measured.

A launch takes the longest of three: its bytes at the speed of memory, or of the L2 cache where they fit there; its
instructions at the speed of the schedulers; and what a launch takes at least. A call takes that or, if longer, what the
processor needs to start its launches. Counts come from benchmarks/results/gpu_compiled.json.
"""

from collections.abc import Iterable, Mapping

COPY, CACHE, FITS = 3.0e12, 5.0e12, 40e6  # bytes per second, read and written, from memory and from L2; bytes of that
ISSUED = 132 * 4 * 1.7e9 * 0.6  # warps' instructions per second: 132 multiprocessors, four schedulers, at 60 %
LEAST, MULTIPROCESSORS = 3e-6, 132  # seconds of a launch
START, TRITON, CALL = 5e-6, 12e-6, 25e-6  # seconds of the processor: an operation of torch, of Triton, our operator
# Tensors of the size of x that a launch reads or writes: in fp32 they are twice as large, and the maps are not.
LIKE_X = {"sums": 1, "gates": 1, "apply": 2, "single": 2, "slope": 2, "reduce": 1, "strips": 0, "gradients": 3}
# In plain operations: bytes in units of x, and launches, of the forward pass and of the backward pass.
PLAIN = {"article": ((17.5, 25), (55, 40)), "fast": ((20.5, 38), (60, 90))}


def moved(size: float) -> float:
    """Seconds for so many bytes."""
    return size / (CACHE if size <= FITS else COPY)


def kernel(rows: Iterable[Mapping], batch: int, wide: bool, images: int, on_chip: int) -> dict[str, float]:
    """Seconds of the passes "forward" and "train" at one shape.

    Args:
        rows: of that shape, as counted with `images`.
        batch: images.
        wide: in fp32.
        images: that the rows are of.
        on_chip: the largest slab of the one launch.
    """
    times: dict[str, list[float]] = {}
    part, work, slabs = batch / images, 0.0, {}
    for row in sorted(rows, key=lambda row: row["pass"]):  # the one launch does the work of the three
        size = 2 * row["shape"][0] * row["shape"][1] * row["shape"][2] * images  # of x in 16 bits
        count = row["instructions"] * row["warps"] * row["programs"]
        work += count if row["pass"] == "forward" else 0
        count = work if row["kernel"] == "single" else count
        moves = row["bytes"] + wide * LIKE_X[row["kernel"]] * size
        times.setdefault(row["pass"], []).append(max(LEAST, moved(part * moves), part * count / ISSUED))
        slabs[row["kernel"]] = row["programs"] * part, size * (1 + wide) / row["programs"]
    programs, slab = slabs["single"]
    one = programs >= MULTIPROCESSORS and slab <= on_chip
    forward = times["forward in one launch" if one else "forward"]
    started = CALL + TRITON * len(forward)
    found = {"forward": max(sum(forward), started)}
    back = times["backward"]
    found["train"] = max(sum(forward + back), started + CALL + TRITON * len(back))
    return found


def plain(name: str, size: float) -> dict[str, float]:
    """Seconds of the passes of a form in plain operations, on x of so many bytes."""
    (moves, count), (back, more) = PLAIN[name]

    def taken(amount: float, launches: int) -> float:
        each = amount * size / launches
        return launches * max(LEAST, START, moved(each))

    return {"forward": taken(moves, count), "train": taken(moves + back, count + more)}


def cases(report: Mapping, on_chip: int) -> list[dict[str, object]]:
    """The cells of the tables: every shape and batch, 16 bits and 32, contiguous, both passes."""
    shapes = {tuple(row["shape"]): None for row in report["rows"]}
    found: list[dict[str, object]] = []
    for mode in ("forward", "train"):
        for wide in (False, True):
            for shape in shapes:
                key = shape, "bfloat16", "contiguous", 90
                names = "shape", "dtype", "layout", "capability"
                rows = [row for row in report["rows"] if (tuple(row["shape"]), *(row[n] for n in names[1:])) == key]
                for batch in (1, 16):
                    size = 2 * (1 + wide) * batch * shape[0] * shape[1] * shape[2]
                    own = kernel(rows, batch, wide, report["batch"], on_chip)[mode]
                    copied = moved(2 * size) * (1 if mode == "forward" else 2.5)
                    article, fast = (plain(name, size)[mode] for name in PLAIN)
                    found.append({"mode": mode, "dtype": "float32" if wide else "bfloat16", "shape": shape,
                                  "batch": batch, "size": size, "article": article, "fast": article / fast,
                                  "kernel": article / own, "copying": copied / own})  # fmt: skip
    return found
