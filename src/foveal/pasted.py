"""Which attention is it? Pasted copies of the authors' classes, recognised by the state that a checkpoint stores.

The name of a class proves nothing: a dozen different modules are called EMA. What counts is the names and shapes of the
tensors, the settings of the layers that hold them (kernel, padding, dilation, eps), the kinds of the layers that hold
none (a ReLU where the authors have a SiLU is another function), and the plain values that the object recorded (groups,
heads). Two codes with equal states cannot be told apart: who has the old code can compare the outputs.

Not here are `hab` and `ocab`, whose authors' classes take tokens and window indices, so that no row can hold them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import find
from .spec import Spec
from .unpickling import Node


@dataclass(frozen=True)
class Pasted:
    """A pasted attention in foveal's terms.

    Attributes:
        path: module and name of the class it was pickled as.
        spec: the attention and its arguments, as the bare module.
        state: its tensors, by foveal's names and in foveal's shapes.
        shifted: those whose values are others, because foveal's layer has another eps.
    """

    path: str
    spec: Spec
    state: dict[str, Tensor]
    shifted: tuple[str, ...]


@dataclass(frozen=True)
class _Rule:
    """How one attention is recognised.

    Attributes:
        silent: classes that parts without tensors may have, by their last name.
        one_of: where the paper's own activation is not the usual one, the names it goes by; one of them must be there.
        infer: arguments of foveal's class, `channels` among them, from tensors and recorded values; what it misses it
            raises as a KeyError.
    """

    silent: frozenset[str]
    one_of: frozenset[str]
    infer: Callable[[Mapping[str, Tensor], Mapping[str, object]], dict[str, object]]


def recognise(node: Node) -> list[Pasted]:
    """Every attention of foveal that the module may be; one is an answer."""
    tensors, recorded = node.tensors(), _recorded(node)
    silent = {part.path.rpartition(".")[2] for name, part in node.walk() if name and not part.tensors()}
    found = []
    for name, rule in _RULES.items():
        try:
            if silent <= rule.silent and not (rule.one_of and rule.one_of.isdisjoint(silent)):
                found += _as(name, rule.infer(tensors, recorded), node, tensors)
        except (ArithmeticError, IndexError, KeyError, TypeError, ValueError):
            continue  # not this one
    return found


def _as(name: str, arguments: dict[str, object], node: Node, tensors: Mapping[str, Tensor]) -> list[Pasted]:
    cls = find(name)
    spec = Spec(name, {key: value for key, value in arguments.items() if key != "channels"}, "paper")
    with torch.device("meta"):  # shapes are all that is asked for
        module = cls(**arguments)
    state = cls.from_official(tensors)
    if _shapes(state) != _shapes(module.state_dict()):
        return []
    shifted = []
    for path, part in node.walk():
        for own, tensor in part.own_tensors().items():
            ours = next(iter(cls.from_official({f"{path}.{own}".lstrip("."): tensor}))).rpartition(".")[0]
            layer = module.get_submodule(ours)
            odd = differing(part, layer) if ours else set()
            if odd == {"eps"} and isinstance(layer, nn.BatchNorm2d):
                # The host sets its own eps on all batch norms. Outputs depend on its sum with the variance.
                there, var = f"{ours}.running_var", part.state["_buffers"]["running_var"]
                state[there] = var.double() + (part.state["eps"] - layer.eps)
                shifted.append(there)
            elif odd:
                return []
    return [Pasted(node.path, spec, state, tuple(dict.fromkeys(shifted)))]


def differing(node: Node, layer: nn.Module) -> set[str]:
    """Names of the settings in which a stored layer is not like `layer`, of those that outputs depend on."""
    told = set(layer.__constants__ if hasattr(layer, "__constants__") else ()) - {"momentum", "inplace"}
    return {key for key in told if key in node.state and hasattr(layer, key) and node.state[key] != getattr(layer, key)}


def _recorded(node: Node) -> dict[str, object]:
    """Everything that the module and its parts store, by dotted name."""
    return {f"{path}.{key}".lstrip("."): value for path, part in node.walk() for key, value in part.state.items()}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


# The rules ---------------------------------------------------------------------------------------------------------


def _ema(tensors: Mapping, recorded: Mapping) -> dict[str, object]:
    groups = recorded["groups"]
    return {"channels": groups * len(tensors["gn.weight"]), "groups": groups}


def _coord(tensors: Mapping, _: Mapping) -> dict[str, object]:
    width, channels = tensors["conv1.weight"].shape[:2]
    return {"channels": channels, "reduction": _ratio(channels, width, 32, at_least=8)}


def _lsk(tensors: Mapping, _: Mapping) -> dict[str, object]:
    return {"channels": len(tensors["conv0.weight"])}


def _lska(tensors: Mapping, _: Mapping) -> dict[str, object]:
    near, far = (tensors[name].shape[3] for name in ("conv0h.weight", "conv_spatial_h.weight"))
    fitting = [size for size in (7, 11, 23, 35, 41, 53) if size // ((near + 1) // 2) == far]
    return {"channels": len(tensors["conv1.weight"]), "kernel_size": fitting[0]}


def _msda(tensors: Mapping, recorded: Mapping) -> dict[str, object]:
    channels, heads = len(tensors["proj.bias"]), recorded["num_heads"]
    _require(recorded["scale"], (channels // heads) ** -0.5)
    same = {"dilations": list(recorded["dilation"]), "kernel_size": recorded["kernel_size"]}
    return {"channels": channels, "heads": heads, **same, "qkv_bias": "qkv.bias" in tensors}


def _mhsa(tensors: Mapping, recorded: Mapping) -> dict[str, object]:
    channels, heads = tensors["to_qkv.weight"].shape[1], recorded["heads"]
    _require(recorded["scale"], (channels // heads) ** -0.5)
    size = [len(tensors[f"pos_emb.rel_{side}"]) // 2 + 1 for side in ("height", "width")]
    return {"channels": channels, "heads": heads, "size": size}


def _fla(tensors: Mapping, recorded: Mapping) -> dict[str, object]:
    return {
        "channels": len(tensors["proj.weight"]),
        "heads": recorded["num_heads"],
        "focusing_factor": recorded["focusing_factor"],
        "kernel_size": tensors["dwc.weight"].shape[3],
        "size": round(tensors["positional_encoding"].shape[1] ** 0.5),
    }


def _sea(tensors: Mapping, recorded: Mapping) -> dict[str, object]:
    keys, channels = tensors["to_q.c.weight"].shape[:2]
    heads = recorded["num_heads"]
    _require(recorded["scale"], (keys // heads) ** -0.5)
    ratio = len(tensors["to_v.c.weight"]) / keys
    return {"channels": channels, "heads": heads, "key_dim": keys // heads, "attn_ratio": ratio}


def _cab(tensors: Mapping, _: Mapping) -> dict[str, object]:
    inner, channels = tensors["cab.0.weight"].shape[:2]
    squeezed = len(tensors["cab.3.attention.1.weight"])
    ratios = {"compress_ratio": _ratio(channels, inner, 3), "squeeze_factor": _ratio(channels, squeezed, 30)}
    return {"channels": channels, **ratios}


def _se(tensors: Mapping, _: Mapping) -> dict[str, object]:
    first = "fc.0" if "fc.0.weight" in tensors else "fc1"
    width, channels = tensors[f"{first}.weight"].shape[:2]
    return {"channels": channels, "reduction": _ratio(channels, width, 16), "bias": f"{first}.bias" in tensors}


def _cbam(tensors: Mapping, recorded: Mapping) -> dict[str, object]:
    if sorted(recorded["ChannelGate.pool_types"]) != ["avg", "max"]:
        raise ValueError
    width, channels = tensors["ChannelGate.mlp.1.weight"].shape
    return {"channels": channels, "reduction": _ratio(channels, width, 16)}


def _eca(tensors: Mapping, _: Mapping) -> dict[str, object]:
    return {"channels": _ANY, "kernel_size": tensors["conv.weight"].shape[2]}


def _sa(tensors: Mapping, recorded: Mapping) -> dict[str, object]:
    groups = recorded["groups"]
    return {"channels": 2 * groups * tensors["cweight"].shape[1], "groups": groups}


def _nam(tensors: Mapping, _: Mapping) -> dict[str, object]:
    return {"channels": len(tensors["Channel_Att.bn2.weight"])}


def _simam(tensors: Mapping, recorded: Mapping) -> dict[str, object]:
    if tensors:
        raise ValueError
    return {"channels": _ANY, "e_lambda": recorded["e_lambda"]}


def _triplet(tensors: Mapping, _: Mapping) -> dict[str, object]:
    return {"channels": _ANY}


_ANY = 64  # where neither parameters nor arguments depend on the width


def _ratio(channels: int, width: int, usual: int, at_least: int = 1) -> int:
    """An r with max(at_least, channels // r) == width: the authors' default if it is one."""
    tried = (usual, *range(1, channels + 1))
    return next((r for r in tried if max(at_least, channels // r) == width), 0)


def _require(value: object, wanted: float) -> None:
    if abs(value - wanted) > 1e-6 * wanted:
        raise ValueError


_RULES = {
    name: _Rule(frozenset((silent + " " + one_of).split()), frozenset(one_of.split()), infer)
    for name, silent, one_of, infer in (
        ("ema", "Softmax AdaptiveAvgPool2d", "", _ema),
        ("coord", "AdaptiveAvgPool2d h_sigmoid ReLU6 Sigmoid", "Hardswish h_swish", _coord),
        ("lska", "", "", _lska),
        ("lsk", "", "", _lsk),
        ("msda", "Unfold Dropout DilateAttention ModuleList", "", _msda),
        ("mhsa", "", "", _mhsa),
        ("fla", "Dropout Softmax", "", _fla),
        ("sea", "ReLU6", "h_sigmoid Hardsigmoid", _sea),
        ("cab", "ReLU Sigmoid AdaptiveAvgPool2d", "GELU", _cab),
        ("se", "AdaptiveAvgPool2d ReLU Sigmoid", "", _se),
        ("cbam", "Flatten ReLU ChannelPool", "", _cbam),
        ("eca", "AdaptiveAvgPool2d Sigmoid", "", _eca),
        ("sa", "AdaptiveAvgPool2d Sigmoid", "", _sa),
        ("nam", "", "", _nam),
        ("simam", "Sigmoid", "", _simam),
        ("triplet", "ChannelPool ZPool", "", _triplet),
    )
}
