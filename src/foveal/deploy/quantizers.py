"""The quantizers that Ultralytics' exporter calls, told which layers of attentions stay in float.

It calls NNCF for OpenVINO, ONNX Runtime's `quantize_static` for ONNX and ModelOpt for TensorRT from 11 on, each with
layers of its own choice that stay in float, such as the head's. During an export others stand in for these functions,
which add to that choice and note what came out. TensorRT up to 10 quantizes while it builds the engine: there nothing
can be told, and nothing is noted.

Layers are found by their names, which both graphs make from those of modules:

    __module.model.16.attention.0/aten::matmul/MatMul     model.16.attention.0, MatMul
    /model.16/attention/attention.0/MatMul_1              the same; a list's member repeats the name of the list
"""

import contextlib
import dataclasses
import importlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

# The function of each format that quantizes.
_FUNCTIONS = {
    "openvino": ("nncf", "quantize"),
    "onnx": ("onnxruntime.quantization", "quantize_static"),
    "engine": ("modelopt.onnx.quantization", "quantize"),
}
_ROUNDED = {"FakeQuantize", "DequantizeLinear"}
# Layers that hand on what they are given, so that a product behind them reads what was rounded before them.
_HANDS_ON = {"Concat", "Convert", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}


@dataclass(frozen=True, order=True)
class Layer:
    """A layer of an attention in a quantized file.

    Attributes:
        attention: the name of its module.
        kind: the runtime's word for what it does, such as MatMul.
        name: in the graph.
    """

    attention: str
    kind: str
    name: str


@dataclass(frozen=True)
class Part:
    """A part of a model: an attention, or its layers of one kind."""

    attention: str
    kind: str = ""

    def __contains__(self, layer: Layer) -> bool:
        return layer.attention == self.attention and self.kind in ("", layer.kind)

    def __str__(self) -> str:
        return f"{self.kind} of {self.attention}" if self.kind else self.attention


@dataclass
class Noted:
    """What a quantizer was told, and what it left.

    Attributes:
        told: whether there was one that could be told anything.
        kept: the layers that it was told to leave in float.
        rounded: the layers of attentions that read rounded values and that nobody told it to leave.
    """

    told: bool = False
    kept: list[Layer] = field(default_factory=list)
    rounded: list[Layer] = field(default_factory=list)


@dataclass(frozen=True)
class _Node:
    """A layer of any graph, and the layers that it reads."""

    name: str
    kind: str
    reads: tuple[str, ...]


@contextlib.contextmanager
def keeping(form: str, attentions: Collection[str], parts: Collection[Part] = ()) -> Iterator[Noted]:
    """While an export runs, keep parts of a model in float.

    Args:
        form: the host's word for the format.
        attentions: the names of all attentions of the model.
        parts: those that stay in float.
    """
    noted = Noted()
    if form not in _FUNCTIONS:
        yield noted
        return
    home, name = _FUNCTIONS[form]
    try:
        module = importlib.import_module(home)
    except ImportError:  # the exporter says so where it needs it
        yield noted
        return
    stand_in = {"openvino": _nncf, "onnx": _onnxruntime, "engine": _modelopt}[form]
    original = getattr(module, name)

    def layers(nodes: Iterable[_Node]) -> list[Layer]:
        named = ((owner(node.name, attentions), node) for node in nodes)
        return [Layer(whose, node.kind, node.name) for whose, node in named if whose]

    def chosen(nodes: Iterable[_Node]) -> list[str]:
        noted.told = True
        noted.kept = [layer for layer in layers(nodes) if any(layer in part for part in parts)]
        return [layer.name for layer in noted.kept]

    def left(nodes: Collection[_Node], excluded: Collection[str]) -> None:
        noted.rounded = layers(node for node in _reading_rounded(nodes) if node.name not in excluded)

    setattr(module, name, stand_in(original, chosen, left))
    try:
        yield noted
    finally:
        setattr(module, name, original)


def owner(name: str, attentions: Iterable[str]) -> str | None:
    """The attention that a layer of a graph belongs to, by their names."""
    scope = re.split(r"/(?:aten|prim)::", name.removeprefix("__module."))[0]
    path: list[str] = []
    for step in scope.strip("/").split("/"):
        if path and step.startswith(f"{path[-1]}."):
            path.pop()
        path.append(step)
    whole = f".{'.'.join(path)}."
    return next((each for each in attentions if f".{each}." in whole), None)


def _reading_rounded(nodes: Iterable[_Node]) -> list[_Node]:
    """The nodes that compute something from rounded values; those of no known input compute from none."""
    by_name = {node.name: node for node in nodes}

    def rounded(name: str) -> bool:
        seen = by_name.get(name)
        while seen and seen.kind in _HANDS_ON and seen.reads:
            seen = by_name.get(seen.reads[0])
        return bool(seen and seen.kind in _ROUNDED)

    skipped = {*_HANDS_ON, *_ROUNDED, "QuantizeLinear"}
    return [node for node in by_name.values() if node.kind not in skipped and any(map(rounded, node.reads))]


_Chosen = Callable[[Iterable[_Node]], list[str]]
_Left = Callable[[Collection[_Node], Collection[str]], None]


def _nncf(original: Callable, chosen: _Chosen, left: _Left) -> Callable:
    import nncf

    def nodes(model: Any) -> list[_Node]:
        return [
            _Node(
                op.get_friendly_name(),
                op.get_type_name(),
                tuple(port.get_source_output().get_node().get_friendly_name() for port in op.inputs()),
            )
            for op in model.get_ordered_ops()
            if op.get_type_name() != "Constant"
        ]

    def quantize(model: Any, *args: Any, ignored_scope: Any = None, **settings: Any) -> Any:
        scope = ignored_scope or nncf.IgnoredScope()
        names = {*scope.names, *chosen(nodes(model)), *_not_corrected(model)}
        done = original(model, *args, ignored_scope=dataclasses.replace(scope, names=sorted(names)), **settings)
        left(nodes(done), names)
        return done

    return quantize


def _not_corrected(model: Any) -> list[str]:
    """Products at which NNCF stops: it corrects a bias along the last dimension of what comes out.

    With the weight on the left the outputs lie along the last but one, and with a vector there is but one output.
    """
    return [
        op.get_friendly_name()
        for op in model.get_ordered_ops()
        if op.get_type_name() == "MatMul"
        and any(
            _is_constant(port.get_source_output().get_node()) and (place == 0 or port.get_partial_shape().rank == 1)
            for place, port in enumerate(op.inputs())
        )
    ]


def _is_constant(op: Any) -> bool:
    while op.get_type_name() == "Convert":
        op = op.input(0).get_source_output().get_node()
    return op.get_type_name() == "Constant"


def _onnx_nodes(file: Any) -> list[_Node]:
    import onnx

    graph = onnx.load(str(file), load_external_data=False).graph
    makers = {output: node.name for node in graph.node for output in node.output}
    return [
        _Node(node.name, node.op_type, tuple(makers[name] for name in node.input if name in makers))
        for node in graph.node
    ]


def _onnxruntime(original: Callable, chosen: _Chosen, left: _Left) -> Callable:
    def quantize_static(source: Any, target: Any, *args: Any, nodes_to_exclude: Any = None, **settings: Any) -> None:
        names = [*(nodes_to_exclude or ()), *chosen(_onnx_nodes(source))]
        original(source, target, *args, nodes_to_exclude=names, **settings)
        left(_onnx_nodes(target), names)

    return quantize_static


def _modelopt(original: Callable, chosen: _Chosen, left: _Left) -> Callable:
    def quantize(source: Any, *args: Any, output_path: Any, nodes_to_exclude: Any = None, **settings: Any) -> None:
        names = chosen(_onnx_nodes(source))
        patterns = [*(nodes_to_exclude or ()), *(f"^{re.escape(name)}$" for name in names)]
        original(source, *args, output_path=output_path, nodes_to_exclude=patterns, **settings)
        left(_onnx_nodes(output_path), names)

    return quantize
