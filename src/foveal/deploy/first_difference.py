"""Which layer of an ONNX file is the first to differ from PyTorch.

The file itself names its values after modules, but not always, and an attention shares its layer's place. So the model
is traced once more, with the output of every layer and of every attention among the outputs.
"""

import copy
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..hosts import ultralytics as host
from ..hosts.ultralytics import Outputs, Written, runtime
from ..surgery import attended, class_name

RELATIVE = 1e-3  # to the largest value of a layer's output


class _Layers(nn.Module):
    """A model whose outputs are those of its layers, in the order of computation."""

    def __init__(self, model: host.Network):
        super().__init__()
        self.model = model
        self.names: list[str] = []
        self.found: list[Tensor] = []
        for index, layer in enumerate(model.model):
            name = f"row {index}, {class_name(layer)}"
            if attended(layer):  # hooks on such a layer see what its attention returns
                layer.attention.register_forward_pre_hook(lambda _module, inputs, name=name: self._note(name, *inputs))
                layer, name = layer.attention, f"the attention of {name}"
            layer.register_forward_hook(lambda _module, _inputs, out, name=name: self._note(name, out))

    def _note(self, name: str, out: object) -> None:
        if isinstance(out, Tensor):
            self.names.append(name)
            self.found.append(out)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.names, self.found = [], []
        self.model(images)
        return tuple(self.found)


@torch.no_grad()
def first(written: Written, images: Tensor) -> str:
    """Name the first layer whose output departs, or that cannot run.

    Args:
        written: an ONNX file and the model that it should equal.
        images: a batch at which it is wrong.

    Returns:
        A sentence; "" where every layer agrees.
    """
    import onnx
    import onnxruntime

    graph, truth = (_Layers(copy.deepcopy(model)).eval() for model in (written.prepared, written.model))
    traced = images.new_zeros(written.batch, images.shape[1], *written.size)
    true = truth(images)
    graph(traced)
    names = [f"layer{index}" for index in range(len(graph.names))]
    # Each with names of its own, because equal names would mean equal sizes.
    axes = {name: {0: "batch", 2: f"rows of {name}", 3: f"columns of {name}"} for name in ("images", *names)}
    options: dict[str, Any] = {"input_names": ["images"], "output_names": names, "dynamic_axes": axes}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "layers.onnx"
        with warnings.catch_warnings():  # that the exporter which the host uses is the older one
            warnings.simplefilter("ignore")
            torch.onnx.export(graph, (traced,), str(file), opset_version=written.opset, dynamo=False, **options)
        whole = onnx.load(str(file))

    def run(outputs: list[str]) -> Outputs:
        part = onnx.utils.Extractor(whole).extract_model(["images"], outputs)
        session = onnxruntime.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
        return [torch.from_numpy(out) for out in session.run(outputs, {"images": images.numpy()})]

    def fails(index: int) -> bool:
        try:
            with runtime.refusing():
                return _departs(run([names[index]])[0], true[index])
        except runtime.CannotRunError:
            return True

    low, high = 0, len(names)  # all before `low` agree; what departs once departs to the end, or nearly so
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(middle) else (middle + 1, high)
    return f"the first layer that departs is {truth.names[low]}" if low < len(names) else ""


def _departs(got: Tensor, true: Tensor) -> bool:
    if got.shape != true.shape:
        return True
    return not float((got - true).abs().max()) <= RELATIVE * float(true.abs().max())
