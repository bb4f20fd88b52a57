"""The rules that weigh: what the module costs, beside one of foveal's, and whether it is one of foveal's."""

import functools

import torch
from torch import Tensor

from ..attention import ATTENTIONS, Attention, Custom, costs
from ..bench import timing
from ..errors import UserError
from .findings import Finding, Rule, State, Subject, apart, tried

CHANNELS, SIZE = 256, 40  # of the map that costs are said of
EQUAL = 1e-9
BESIDE = "ema"  # of foveal's attentions the one that times are compared with
PATIENCE = 4000.0  # milliseconds in which times are taken


def same(subject: Subject) -> Finding:
    """Whether it computes what an attention of foveal's computes."""
    if not issubclass(subject.made, Custom):
        return Finding("foveal's", State.OK, "is one of foveal's")
    if (found := recognised(subject)) is None:
        return Finding("foveal's", State.OK, "computes what no attention of foveal's computes with the same tensors")
    return Finding(
        "foveal's",
        State.NOTE,
        f"computes what foveal's {found.card.name} computes, with the same tensors",
        hint=f"write {found.card.name} instead: the same function, which exports at every size",
    )


def recognised(subject: Subject) -> type[Attention] | None:
    """The attention of foveal's that has the same function of the same tensors, None if there is none."""
    module, x = subject.build(), subject.draw(2, subject.width, 9, 12)
    state = {name.removeprefix("module."): tensor for name, tensor in module.state_dict().items()}
    for cls in ATTENTIONS.values():
        try:
            with torch.random.fork_rng(devices=[]):
                ours = cls(subject.width).eval().double()
            ours.load_state_dict(cls.from_official(state))
        except (UserError, LookupError, RuntimeError, ValueError):
            continue  # its tensors are others
        if (state or not list(ours.parameters())) and apart(ours(x), module(x)) <= EQUAL:
            return cls
    return None


def cost(subject: Subject) -> Finding:
    """Parameters, operations and memory at one width."""
    counts, said = tried(lambda: costs(subject.made, CHANNELS, SIZE, **subject.spec.arguments))
    if said:
        return Finding("costs", State.UNTRIED, f"cannot be built or run at {CHANNELS} channels: {said}")
    module, x = subject.build(width=CHANNELS, dtype=torch.float32).train(), _map(subject)
    with timing.Saved([x, *module.parameters()]) as kept:
        module(x)
    flops = counts.get("flops_fast", counts["flops_reference"])
    return Finding(
        "costs",
        State.OK,
        f"{counts['parameters']:,} parameters, {flops / 1e6:.1f} MFLOPs and {kept.bytes / 1e6:.1f} MB kept for the "
        f"backward pass, of a map of {CHANNELS} x {SIZE} x {SIZE} ({x.numel() * 4 / 1e6:.1f} MB)",
    )


def speed(subject: Subject) -> Finding:
    """Its times beside those of an attention of foveal's."""
    module, said = tried(lambda: subject.build(width=CHANNELS, dtype=torch.float32))
    if said:
        return Finding("speed", State.UNTRIED, f"cannot be built at {CHANNELS} channels: {said}")
    other = ATTENTIONS[BESIDE](CHANNELS).eval()
    x = _map(subject)
    calls = {}
    for name, each in {"theirs": module, "ours": other}.items():
        calls[f"forward {name}"] = functools.partial(_forward, each, x)
        calls[f"training {name}"] = functools.partial(_step, each, x)
    for call in calls.values():
        call()
    times, _ = timing.interleaved(calls, torch.device("cpu"), None, PATIENCE, 15)
    parts = []
    for what, where in {"forward": "forward", "training": "a training step"}.items():
        theirs, ours = times[f"{what} theirs"], times[f"{what} ours"]
        middle = timing.quartiles([a / b for a, b in zip(theirs, ours, strict=True)])[1]
        parts.append(f"{timing.quartiles(theirs)[1]:.2f} ms {where}, {middle:.2g} times {BESIDE}'s")
    return Finding("speed", State.OK, f"{'; '.join(parts)} (one image, {torch.get_num_threads()} threads)")


def _map(subject: Subject) -> Tensor:
    return subject.draw(1, CHANNELS, SIZE, SIZE, dtype=torch.float32)


@torch.no_grad()
def _forward(module: Attention, x: Tensor) -> None:
    module.eval()(x)


def _step(module: Attention, x: Tensor) -> None:
    module.train()(x.detach().requires_grad_()).sum().backward()


RULES: tuple[Rule, ...] = (same, cost, speed)
