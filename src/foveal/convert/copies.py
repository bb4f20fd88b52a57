"""What copies of each attention store: how its arguments are read off, and what may stand beside its layers.

One rule for each attention, by the short name under which `recognition` asks for it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..checkpoints import Node
from .fitting import Unit, is_plain, stored_units

# What torch and Ultralytics' parser store on every module.
_EVERY_MODULE = {"training", "i", "f", "type", "np", "inplace"}


@dataclass(frozen=True)
class Stored:
    """What rules look at.

    Attributes:
        units: layers with tensors.
        tensors: by the copy's names.
        recorded: everything that the module and its parts store, by dotted name.
        plain: numbers and texts that the module itself stores, apart from what every module has.
        given: arguments that a person said.
        silent: names of the classes of the parts without tensors, in their order.
    """

    units: list[Unit]
    tensors: Mapping[str, Tensor]
    recorded: Mapping[str, Any]
    plain: Mapping[str, Any]
    given: Mapping[str, Any]
    silent: list[str]

    @classmethod
    def of(cls, node: Node, given: Mapping[str, Any]) -> "Stored":
        """What a module stores, and what is said of it."""
        recorded = {
            f"{path}.{key}".lstrip("."): value for path, part in node.walk() for key, value in part.state.items()
        }
        silent = [class_name(part) for path, part in node.walk() if path and not part.tensors()]
        return cls(stored_units(node), node.tensors(), recorded, plain(node), given, silent)

    def matrices(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of every linear layer and convolution of one pixel."""
        return [unit.matrix for unit in self.units if unit.matrix]

    def kernels(self, dims: int) -> list[tuple[int, ...]]:
        """Shapes of the weights with so many dimensions that are no matrices."""
        return [tuple(u.weight.shape) for u in self.units if u.kind and not u.matrix and u.weight.dim() == dims]

    def groups(self, width: int) -> int:
        """Number of groups of `width` channels: as said, as recorded by that name, or the only one that it can be."""
        for told in (self.given, self.plain):
            if "groups" in told:
                return told["groups"]
        numbers = [value for value in self.plain.values() if type(value) is int and value > 0]
        (only,) = {value for value in numbers if value * width in numbers} or set(numbers)
        return only

    def constant(self, name: str) -> object:
        """Said, recorded under that name, or the only fraction that is recorded."""
        for told in (self.given, self.plain):
            if name in told:
                return told[name]
        (only,) = [value for value in self.plain.values() if isinstance(value, float)]
        return only

    def __str__(self) -> str:
        """All of it, in a few words."""
        parts = [unit.kind or unit.name for unit in self.units]
        parts += [f"{key}={value!r}" for key, value in self.plain.items() if isinstance(value, float)]
        return f"nothing but {', '.join(parts)}" if parts else "nothing at all"


@dataclass(frozen=True)
class Rule:
    """How one attention is recognised.

    Attributes:
        infer: arguments of foveal's class, `channels` among them; raises an error for what is not this attention.
        silent: classes that parts without tensors may have, by their last name, with the settings they may have.
        one_of: where the paper's own activation is not the usual one, the names it goes by; one of them must be there.
        evidence: classes without tensors that must be there where layers do not have the authors' names.
        positions: settings of parts under the authors' names.
        known: values of the authors' class that are read here or that mean nothing.
        named: a recorded value by whose name alone it is recognised; "" where that is told by the layers.
        thin: whether it stores too little to be recognised by anything but names.
        reshaped: whether its layers are not the authors' one by one, so that only their names tell.
        two_maps: whether a kernel takes the maximum and the mean over channels, in an order that a file cannot tell.
    """

    infer: Callable[[Stored], dict[str, Any]]
    silent: Mapping[str, tuple[dict[str, Any], ...]]
    one_of: frozenset[str] = frozenset()
    evidence: frozenset[str] = frozenset()
    positions: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    named: str = ""
    thin: bool = False
    reshaped: bool = False
    two_maps: bool = False


def plain(node: Node) -> dict[str, Any]:
    """Numbers and texts that a module itself stores, apart from what every module has."""
    return {
        key: value
        for key, value in node.state.items()
        if not key.startswith("_") and key not in _EVERY_MODULE and is_plain(value)
    }


def class_name(node: Node) -> str:
    """Without its module."""
    return node.path.rpartition(".")[2]


# The rules ---------------------------------------------------------------------------------------------------------


def _ema(stored: Stored) -> dict[str, Any]:
    (width,) = (len(unit.weight) for unit in stored.units if unit.kind == "GroupNorm")
    groups = stored.groups(width)
    return {"channels": groups * width, "groups": groups}


def _coord(stored: Stored) -> dict[str, Any]:
    shapes = stored.matrices()
    width, channels = next((shape for shape in shapes if shapes.count(shape) == 1), shapes[0])
    return {"channels": channels, "reduction": _ratio(channels, width, 32, at_least=8)}


def _lsk(stored: Stored) -> dict[str, Any]:
    near, far, _ = stored.kernels(4)
    _require(far[0], near[0])
    return {"channels": near[0]}


def _lska(stored: Stored) -> dict[str, Any]:
    near, far = (shape[3] for shape in stored.kernels(4) if shape[2] == 1)
    fitting = [size for size in (7, 11, 23, 35, 41, 53) if size // ((near + 1) // 2) == far]
    ((channels, _),) = stored.matrices()
    return {"channels": channels, "kernel_size": fitting[0]}


def _msda(stored: Stored) -> dict[str, Any]:
    tensors, recorded = stored.tensors, stored.recorded
    channels, heads = len(tensors["proj.bias"]), recorded["num_heads"]
    _require(recorded["scale"], (channels // heads) ** -0.5)
    for name in (name for name in recorded if name.endswith("unfold.padding")):
        dilation, size = (recorded[name.replace("padding", key)] for key in ("dilation", "kernel_size"))
        _require(recorded[name], dilation * (size - 1) // 2)
        _require(size, recorded["kernel_size"])
    same = {"dilations": list(recorded["dilation"]), "kernel_size": recorded["kernel_size"]}
    return {"channels": channels, "heads": heads, **same, "qkv_bias": "qkv.bias" in tensors}


def _mhsa(stored: Stored) -> dict[str, Any]:
    tensors, recorded = stored.tensors, stored.recorded
    channels, heads = tensors["to_qkv.weight"].shape[1], recorded["heads"]
    _require(recorded["scale"], (channels // heads) ** -0.5)
    size = [len(tensors[f"pos_emb.rel_{side}"]) // 2 + 1 for side in ("height", "width")]
    return {"channels": channels, "heads": heads, "size": size}


def _fla(stored: Stored) -> dict[str, Any]:
    tensors, recorded = stored.tensors, stored.recorded
    return {
        "channels": len(tensors["proj.weight"]),
        "heads": recorded["num_heads"],
        "focusing_factor": recorded["focusing_factor"],
        "kernel_size": tensors["dwc.weight"].shape[3],
        "size": round(tensors["positional_encoding"].shape[1] ** 0.5),
    }


def _sea(stored: Stored) -> dict[str, Any]:
    tensors, recorded = stored.tensors, stored.recorded
    keys, channels = tensors["to_q.c.weight"].shape[:2]
    heads = recorded["num_heads"]
    _require(recorded["scale"], (keys // heads) ** -0.5)
    ratio = len(tensors["to_v.c.weight"]) / keys
    return {"channels": channels, "heads": heads, "key_dim": keys // heads, "attn_ratio": ratio}


def _cab(stored: Stored) -> dict[str, Any]:
    (inner, channels), _ = (shape[:2] for shape in stored.kernels(4))
    (squeezed, _), _ = stored.matrices()
    ratios = {"compress_ratio": _ratio(channels, inner, 3), "squeeze_factor": _ratio(channels, squeezed, 30)}
    return {"channels": channels, **ratios}


def _se(stored: Stored) -> dict[str, Any]:
    (width, channels), _ = stored.matrices()
    bias = any("bias" in unit.tensors for unit in stored.units)
    return {"channels": channels, "reduction": _ratio(channels, width, 16), "bias": bias}


def _cbam(stored: Stored) -> dict[str, Any]:
    pooled = [value for name, value in stored.recorded.items() if name.endswith("pool_types")]
    if any(sorted(each) != ["avg", "max"] for each in pooled):
        raise ValueError
    if ("AdaptiveAvgPool2d" in stored.silent) != ("AdaptiveMaxPool2d" in stored.silent):
        raise ValueError
    (width, channels), _ = stored.matrices()
    return {"channels": channels, "reduction": _ratio(channels, width, 16)}


def _eca(stored: Stored) -> dict[str, Any]:
    ((_, _, size),) = stored.kernels(3)
    return {"channels": _ANY, "kernel_size": size}


def _sa(stored: Stored) -> dict[str, Any]:
    (width,) = (len(unit.weight) for unit in stored.units if unit.kind == "GroupNorm")
    groups = stored.groups(2 * width)
    return {"channels": 2 * groups * width, "groups": groups}


def _nam(stored: Stored) -> dict[str, Any]:
    (norm,) = stored.units
    return {"channels": len(norm.weight)}


def _simam(stored: Stored) -> dict[str, Any]:
    if stored.tensors:
        raise ValueError
    return {"channels": _ANY, "e_lambda": stored.constant("e_lambda")}


def _triplet(stored: Stored) -> dict[str, Any]:
    _require(len([shape for shape in stored.kernels(4) if shape[:2] == (1, 2)]), 3)
    return {"channels": _ANY}


def _mlca(stored: Stored) -> dict[str, Any]:
    (size,) = {shape[2] for shape in stored.kernels(3)}
    local = stored.recorded["local_size"]
    pools = sorted(value for name, value in stored.recorded.items() if name.endswith("output_size"))
    if len(stored.kernels(3)) != 2 or (pools and pools != sorted([1, local])):
        raise ValueError
    # The width from which a kernel of this size follows; no tensor tells more.
    channels = 2 ** (2 * size - 1)
    return {"channels": channels, "local_size": local, "local_weight": stored.constant("local_weight")}


def _caa(stored: Stored) -> dict[str, Any]:
    (channels, _), _ = stored.matrices()
    (across,) = (shape[3] for shape in stored.kernels(4) if shape[2] == 1)
    (down,) = (shape[2] for shape in stored.kernels(4) if shape[3] == 1)
    norm = any(unit.kind == "BatchNorm2d" for unit in stored.units)
    if stored.silent.count("SiLU") != 2 * norm:  # one behind each norm, also before the sigmoid
        raise ValueError
    return {"channels": channels, "h_kernel_size": across, "v_kernel_size": down, "norm": norm}


def _scsa(stored: Stored) -> dict[str, Any]:
    recorded, channels = stored.recorded, len(stored.tensors["norm.weight"])
    heads, window = recorded["head_num"], recorded["window_size"]
    _require(recorded["scaler"], (channels // heads) ** -0.5)
    if recorded["down_sample_mode"] != "avg_pool":
        raise ValueError
    return {"channels": channels, "heads": heads, "window_size": window}


def _cpca(stored: Stored) -> dict[str, Any]:
    width, channels = stored.tensors["ca.fc1.weight"].shape[:2]
    return {"channels": channels, "reduction": _ratio(channels, width, 4)}


_ANY = 64  # where neither parameters nor arguments depend on the width


def _ratio(channels: int, width: int, usual: int, at_least: int = 1) -> int:
    """An r with max(at_least, channels // r) == width: the authors' default if it is one."""
    tried = (usual, *range(1, channels + 1))
    return next((r for r in tried if max(at_least, channels // r) == width), 0)


def _require(value: float, wanted: float) -> None:
    if abs(value - wanted) > 1e-6 * wanted:
        raise ValueError


CONTAINERS = ("Sequential", "ModuleList", "Identity")
PASTED = ("h_sigmoid", "h_swish", "Flatten", "ChannelPool", "ZPool", "DilateAttention")  # the authors' own
_Settings = dict[str, Any]
_Allowed = dict[str, tuple[_Settings, ...]]
_ONE: _Settings = {"output_size": 1}
_ROWS: _Settings = {"output_size": (None, 1)}
_COLUMNS: _Settings = {"output_size": (1, None)}
_POOL: _Allowed = {"AdaptiveAvgPool2d": (_ONE,)}
_MAXIMUM: _Allowed = {"AdaptiveMaxPool2d": (_ONE,)}
_STRIPS: _Allowed = {"AdaptiveAvgPool2d": (_ONE, _ROWS, _COLUMNS)}
_SIDES = {"pool_h": _ROWS, "pool_w": _COLUMNS}
_SOFTMAX: _Allowed = {"Softmax": ({"dim": -1},)}
_RELU6: _Allowed = {"ReLU6": ({"min_val": 0.0, "max_val": 6.0},)}
_GELU: _Allowed = {"GELU": ({"approximate": "none"},)}


def _plainly(*names: str) -> _Allowed:
    """Classes whose settings do not matter."""
    return dict.fromkeys(names, ({},))


RULES = {
    "ema": Rule(
        _ema,
        _SOFTMAX | _STRIPS | _plainly("Sigmoid"),
        evidence=frozenset({"Softmax"}),
        positions=_SIDES | {"agp": _ONE},
    ),
    "coord": Rule(
        _coord,
        _STRIPS | _RELU6 | _plainly("h_sigmoid", "Sigmoid"),
        one_of=frozenset({"Hardswish", "h_swish"}),
        positions=_SIDES,
    ),
    "lska": Rule(_lska, {}),
    "lsk": Rule(_lsk, _plainly("Sigmoid")),
    "msda": Rule(
        _msda,
        {"Unfold": ({"stride": 1},), **_plainly("Dropout", "DilateAttention")},
        known=frozenset({"scale", "qkv_bias"}),
        reshaped=True,
    ),
    "mhsa": Rule(_mhsa, {}, known=frozenset({"scale"}), reshaped=True),
    "fla": Rule(
        _fla, {"Softmax": ({"dim": -1},), **_plainly("Dropout")}, known=frozenset({"focusing_factor"}), reshaped=True
    ),
    "sea": Rule(
        _sea,
        _RELU6,
        one_of=frozenset({"h_sigmoid", "Hardsigmoid"}),
        known=frozenset({"scale", "attn_ratio"}),
        reshaped=True,
    ),
    "cab": Rule(_cab, _POOL | _plainly("ReLU", "Sigmoid") | _GELU, one_of=frozenset({"GELU"})),
    "se": Rule(_se, _POOL | _plainly("ReLU", "Sigmoid"), evidence=frozenset({"AdaptiveAvgPool2d", "Sigmoid"})),
    "cbam": Rule(_cbam, _POOL | _MAXIMUM | _plainly("Flatten", "ReLU", "Sigmoid", "ChannelPool"), two_maps=True),
    "eca": Rule(_eca, _POOL | _plainly("Sigmoid"), evidence=frozenset({"AdaptiveAvgPool2d", "Sigmoid"})),
    "sa": Rule(_sa, _POOL | _plainly("Sigmoid")),
    "nam": Rule(_nam, _plainly("Sigmoid"), thin=True),
    "simam": Rule(_simam, _plainly("Sigmoid"), named="e_lambda"),
    "triplet": Rule(_triplet, _plainly("ChannelPool", "ZPool", "Sigmoid")),
    "mlca": Rule(_mlca, {"AdaptiveAvgPool2d": ({},)}, known=frozenset({"local_weight"}), reshaped=True),
    "caa": Rule(
        _caa,
        {"AvgPool2d": ({"kernel_size": 7, "stride": 1, "padding": 3},), **_plainly("SiLU", "Sigmoid")},
        evidence=frozenset({"AvgPool2d", "Sigmoid"}),
        known=frozenset({"with_norm", "with_activation", "with_bias"}),  # of mmcv's convolution
    ),
    "scsa": Rule(
        _scsa, {"AvgPool2d": ({},), **_plainly("Sigmoid", "Dropout")}, known=frozenset({"scaler"}), reshaped=True
    ),
    "cpca": Rule(_cpca, _GELU, one_of=frozenset({"GELU"}), reshaped=True),
}
