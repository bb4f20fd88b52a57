"""Every attention at its card's place in the smallest and the largest YOLO11: identity start, one step, ONNX."""

import copy
import functools
import inspect

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

from ultralytics.cfg import get_cfg
from ultralytics.nn import tasks

from foveal import ATTENTIONS, IdentityStart, Spec, UserError
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import adding
from foveal.surgery import model_yaml
from helpers import draw, filled, fitting, hinted, swept


def build(cfg: dict) -> tasks.DetectionModel:
    return tasks.DetectionModel(copy.deepcopy(cfg), ch=3, verbose=False)


@functools.cache
def stock(scale: str) -> tuple[tasks.DetectionModel, dict[str, tuple[int, ...]]]:
    """YOLO11 and its places."""
    torch.manual_seed(0)
    plain = build(tasks.yaml_model_load(f"yolo11{scale}.yaml"))
    return plain, model_yaml.places(plain.yaml, adding.measured_strides(plain.eval()))


def attended_twin(plain: tasks.DetectionModel, places: dict, name: str) -> tasks.DetectionModel:
    """The model with the attention at its card's place, with the arguments that its refusal asks for, if it refuses."""
    found = model_yaml.resolve(["paper"], places, ATTENTIONS[name].card.paper_place, len(model_yaml.rows(plain.yaml)))
    rows = [place.row for place in found]
    spec = Spec(name)
    try:
        return build(model_yaml.with_suffix(plain.yaml, spec, rows))
    except UserError as refusal:
        arguments = hinted(refusal)
    return build(model_yaml.with_suffix(plain.yaml, Spec(name, arguments), rows))


def settings(module: torch.nn.Module) -> set[tuple[float, float | None]]:
    """Of all batch norms in a module."""
    return {(part.eps, part.momentum) for part in module.modules() if isinstance(part, _BatchNorm)}


@torch.no_grad()
def outputs(model: tasks.DetectionModel) -> torch.Tensor:
    return model.eval()(draw(0, 1, 3, 64, 96).float().sigmoid())[0]


# The widest scale for those that divide channels, which is where a width can matter.
DIVIDING = [name for name, cls in ATTENTIONS.items() if {"groups", "heads"} & {*inspect.signature(cls).parameters}]


WIDEST = [pytest.param(name, "x", marks=pytest.mark.sweep) for name in DIVIDING]


EVERY = [(name, "n") for name in ATTENTIONS]


def stepped(name: str, scale: str) -> tasks.DetectionModel:
    """The model with the attention, exact at its start, after a step of training that moved the attention, too."""
    plain, places = stock(scale)
    torch.manual_seed(0)
    model = attended_twin(plain, places, name)
    starts = [module for module in model.modules() if isinstance(module, IdentityStart)]
    assert starts
    placed = {each for start in starts for each in settings(start.attention)}
    assert placed == settings(fitting(ATTENTIONS[name], 64))  # not what the host sets

    model.load(plain, verbose=False)
    assert plain.state_dict().keys() <= model.state_dict().keys()
    assert torch.equal(outputs(model), outputs(plain))

    for start in starts:
        filled(start.attention)
        start.gain.data.fill_(0.5)
    model.args = get_cfg()
    batch = {"img": draw(1, 2, 3, 64, 64).float().sigmoid(), "batch_idx": torch.tensor([0.0, 1.0])}
    batch |= {"cls": torch.tensor([[3.0], [7.0]]), "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.6, 0.5, 0.2]])}
    loss, _ = model.train()(batch)
    loss.sum().backward()
    parameters = dict(starts[0].named_parameters())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in parameters.values())
    before = {key: p.detach().clone() for key, p in parameters.items()}
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    assert not torch.equal(before["gain"], starts[0].gain)
    return model.eval().zero_grad() or model


@pytest.mark.parametrize(("name", "scale"), [*EVERY, *WIDEST])
def test_at_its_place(name, scale):
    stepped(name, scale)


# Each attention by itself is written as ONNX in tests/attention/test_contract.py.
@pytest.mark.parametrize(("name", "scale"), [*swept(EVERY, "ema-n", "mhsa-n", ids="-".join), *WIDEST])
def test_as_a_file_at_its_place(name, scale, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model = stepped(name, scale)
    file = tmp_path / "model.pt"
    torch.save(host.checkpoint(model, {}), file)
    path = host.YOLO(file).export(format="onnx", dynamic=True, imgsz=64, simplify=False, device="cpu")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"images": draw(0, 1, 3, 64, 96).float().sigmoid().numpy()})
    true = outputs(model)
    assert float((torch.from_numpy(got) - true)[:, :4].abs().max()) <= 1e-3 * 96
    assert float((torch.from_numpy(got) - true)[:, 4:].abs().max()) <= 1e-4
