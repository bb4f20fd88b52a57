"""The rules that are about the module in PyTorch: shapes, types, batches, gradients, copies."""

import copy
import pickle
import warnings

import torch

from .findings import WIDTH, Finding, Rule, State, Subject, apart, run, tried

WIDTHS = (16, 32, 64, 128, 256, 384, 512, 768)  # of the rows of YOLO11, over its scales
SIZES = ((20, 20), (15, 20), (7, 13), (80, 80), (1, 9), (1, 1))
EXACT, CLOSE, HALF = 1e-9, 1e-5, 0.05  # in double precision, in single, and with eight bits


def widths(subject: Subject) -> Finding:
    """It can be built at each width of a YOLO11."""
    wrong = {width: said for width in WIDTHS if (said := tried(subject.build, 0, torch.float64, width)[1])}
    if not wrong:
        return Finding("widths", State.OK, f"builds at {', '.join(map(str, WIDTHS))} channels")
    said = next(iter(wrong.values()))
    return Finding(
        "widths",
        State.NOTE if max(wrong) < WIDTH else State.FAILS,
        f"cannot be built at {', '.join(map(str, wrong))} channels ({said})",
        "it cannot go to rows of these widths; the narrowest scales have them",
        "choose groups or heads from the width, or give them as arguments",
    )


def sizes(subject: Subject) -> Finding:
    """It keeps the shape of maps of any size."""
    module, wrong = subject.build(dtype=torch.float32), {}
    for height, width in SIZES:
        x = subject.draw(2, subject.width, height, width, dtype=torch.float32)
        out, said = tried(module, x)
        if said or out.shape != x.shape or not out.isfinite().all():
            wrong[f"{height} x {width}"] = said or f"it returns {tuple(out.shape)}, or values that are not finite"
    if not wrong:
        return Finding("sizes", State.OK, f"keeps maps of {', '.join(f'{h} x {w}' for h, w in SIZES)}")
    return Finding(
        "sizes",
        State.FAILS,
        f"fails on maps of {', '.join(wrong)} ({next(iter(wrong.values()))})",
        "images that are no squares, or small, have such maps",
        "pad the map in its forward, and cut the result to H and W",
    )


def types(subject: Subject) -> Finding:
    """It returns the type that it reads."""
    wrong = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        module = subject.build(dtype=dtype)
        # The class's own forward: what wraps it would cast its output.
        out, said = tried(module.reference, subject.draw(1, subject.width, 8, 8, dtype=dtype))
        if said or out.dtype != dtype:
            wrong[str(dtype).removeprefix("torch.")] = said or f"it returns {out.dtype}"
    if not wrong:
        return Finding("types", State.OK, "computes in double, single and half precision, and in bfloat16")
    return Finding(
        "types",
        State.FAILS if "float32" in wrong else State.NOTE,
        f"in {', '.join(wrong)}: {next(iter(wrong.values()))}",
        "half precision is how GPUs validate and how engines are built",
        "make constants with x.new_tensor(...), and cast back with .to(x.dtype)",
    )


def layout(subject: Subject) -> Finding:
    """It returns channels_last for channels_last."""
    module = subject.build(dtype=torch.float32)
    x = subject.draw(2, subject.width, 8, 12, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    out = run(module, x)
    if apart(out, run(module, x.contiguous())) > CLOSE:
        return Finding(
            "layout",
            State.FAILS,
            "computes something else where channels lie last",
            "GPUs use that layout",
            "use reshape instead of view",
        )
    if out.is_contiguous(memory_format=torch.channels_last):
        return Finding("layout", State.OK, "returns channels_last for channels_last")
    return Finding(
        "layout",
        State.NOTE,
        "returns another memory format than it reads; foveal copies it back",
        "costs one copy of the map where the network runs channels_last",
    )


def batches(subject: Subject) -> Finding:
    """What it makes of an image does not depend on the others."""
    module, x = subject.build(), subject.draw(3, subject.width, 9, 12)
    together = run(module, x)
    alone = torch.cat([run(module, x[index : index + 1]) for index in range(3)])
    if (far := apart(alone, together)) <= EXACT:
        return Finding("batches", State.OK, "an image alone gives what it gives in a batch")
    return Finding(
        "batches",
        State.FAILS,
        f"an image alone gives something else than in a batch ({far:.1e} of the largest value)",
        "every score then depends on the batch size of the evaluation",
        "reduce over dimensions 1, 2 and 3 only, never over 0",
    )


def gradients(subject: Subject) -> Finding:
    """Every parameter gets a finite gradient."""
    module, x = subject.build().train(), subject.draw(2, subject.width, 9, 12).requires_grad_()
    _, said = tried(lambda: module(x).backward(subject.draw(2, subject.width, 9, 12, seed=1)))
    if said:
        return Finding(
            "gradients",
            State.FAILS,
            f"its backward pass raises {said}",
            "it cannot be trained",
            "write out = a * b instead of changing tensors in place",
        )
    trained = {name.removeprefix("module."): each for name, each in module.named_parameters() if each.requires_grad}
    without = [name for name, each in trained.items() if each.grad is None]
    gradients = {name: each.grad for name, each in trained.items() if each.grad is not None}
    every = {**gradients, "its input": x.grad}
    infinite = [name for name, each in every.items() if each is None or not each.isfinite().all()]
    if infinite:
        return Finding(
            "gradients",
            State.FAILS,
            f"gradients of {', '.join(infinite)} are not finite",
            "a training becomes NaN",
            "add an epsilon under roots and divisions",
        )
    if without:
        return Finding(
            "gradients",
            State.FAILS,
            f"{_few(without)} get no gradient",
            "a training on several GPUs stops with an error about parameters that were not used",
            "delete what its forward does not use",
        )
    zero = [name for name, each in gradients.items() if not each.any()]
    if zero:
        return Finding(
            "gradients",
            State.NOTE,
            f"the gradient of {_few(zero)} is 0",
            "these parameters change nothing, such as a bias before a norm",
        )
    return Finding("gradients", State.OK, f"finite for its input and all of {len(gradients)} parameters")


def determinism(subject: Subject) -> Finding:
    """The same input gives the same output, bit for bit."""
    module, x = subject.build(dtype=torch.float32), subject.draw(2, subject.width, 9, 12, dtype=torch.float32)
    if not torch.equal(run(module, x), run(module, x)):
        return Finding(
            "determinism",
            State.FAILS,
            "two calls in evaluation mode give different outputs",
            "no score can be repeated",
            "use nn.Dropout, which does nothing in evaluation mode",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        torch.use_deterministic_algorithms(True)
        try:
            _, said = tried(lambda: module(x.clone().requires_grad_()).sum().backward())
        finally:
            torch.use_deterministic_algorithms(False)
    if said:
        return Finding(
            "determinism",
            State.NOTE,
            f"asked for deterministic algorithms, torch says {said}",
            "two trainings with one seed can differ",
        )
    return Finding("determinism", State.OK, "two calls give the same bits")


def state(subject: Subject) -> Finding:
    """A state dict is all that a copy of the module needs; copies and pickles equal it."""
    module, x = subject.build(dtype=torch.float32), subject.draw(2, subject.width, 9, 12, dtype=torch.float32)
    true = run(module, x)
    fresh = subject.build(1, torch.float32)
    _, said = tried(lambda: fresh.load_state_dict(module.state_dict()))
    if said or not torch.equal(run(fresh, x), true):
        return Finding(
            "state",
            State.FAILS,
            f"a fresh module with its state dict {said or 'computes something else'}",
            "weights that are loaded, averaged (EMA) or transferred make another model",
            "keep every tensor as nn.Parameter or with register_buffer",
        )
    ways = {"copy": copy.deepcopy, "pickle": lambda each: pickle.loads(pickle.dumps(each))}
    for what, copied in ways.items():
        out, said = tried(lambda way: way(module)(x), copied)
        if said or not torch.equal(out, true):
            return Finding(
                "state",
                State.FAILS,
                f"a {what} of it {said or 'computes something else'}",
                "a checkpoint of it cannot be read",
                "keep no lambdas, hooks or open files on self",
            )
    return Finding("state", State.OK, "state dict, copies and pickles bring it back bit for bit")


def autocast(subject: Subject) -> Finding:
    """Automatic mixed precision changes it by rounding only."""
    module, x = subject.build(dtype=torch.float32), subject.draw(2, subject.width, 9, 12, dtype=torch.float32)
    true = run(module, x)

    with torch.autocast("cpu", torch.bfloat16):
        out, said = tried(module, x)
    far = 0.0 if said else apart(out, true)
    if not said and far <= HALF:
        return Finding("autocast", State.OK, "mixed precision changes it by rounding only")
    return Finding(
        "autocast",
        State.FAILS,
        f"in mixed precision it {f'raises {said}' if said else f'differs by {far:.0%} of its largest value'}",
        "Ultralytics trains in mixed precision on GPUs (amp=True)",
        "compute sums and exponentials in x.float(), and multiply tensors of one type",
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


RULES: tuple[Rule, ...] = (widths, sizes, types, layout, batches, gradients, determinism, state, autocast)
