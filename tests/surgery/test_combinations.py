"""Whatever is asked for builds and runs, or is refused in a sentence."""

import functools
import inspect

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foveal import ATTENTIONS, Spec, UserError
from foveal.hosts.ultralytics import adding
from foveal.surgery import model_yaml
from helpers import draw

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

from ultralytics.nn import tasks

PLACES = ["neck", "P3", "P4", "P5", "backbone", "backbone.P2", "backbone.P3", "sppf", "psa", "paper", "0", "7", "99"]
SIZES = st.integers(1, 40)
VALUES = {
    int: st.integers(-1, 40),
    float: st.one_of(st.floats(-1, 4), st.integers(-1, 4)),
    bool: st.booleans(),
}


def model(name: str) -> tasks.DetectionModel:
    return tasks.DetectionModel(tasks.yaml_model_load(f"{name}.yaml"), ch=3, verbose=False).eval()


@functools.cache
def layers_of(scale: str) -> tuple[dict[str, tuple[int, ...]], list[int | None], int]:
    """Places of YOLO11, the width of each row and their number."""
    built, widths = model(f"yolo11{scale}"), []
    for layer in built.model:
        layer.register_forward_hook(lambda _m, _i, out: widths.append(out.shape[1] if hasattr(out, "shape") else None))
    with torch.no_grad():
        built(torch.zeros(1, 3, 64, 64))
    return model_yaml.places(built.yaml, adding.measured_strides(built)), widths, len(built.model)


@st.composite
def asked(draw_from):
    """An attention with some of its arguments, of the right type and of any value."""
    cls = ATTENTIONS[draw_from(st.sampled_from(sorted(ATTENTIONS)))]
    arguments = {}
    for name, parameter in list(inspect.signature(cls).parameters.items())[1:]:
        if draw_from(st.integers(0, 3)) == 0:
            if name == "dilations":
                arguments[name] = draw_from(st.lists(st.integers(-1, 5), max_size=4))
            elif name == "kernel_size":
                arguments[name] = draw_from(st.sampled_from([-1, 0, 1, 3, 4, 5, 7, 11, 23]))
            else:
                arguments[name] = draw_from(VALUES[type(parameter.default)])
    return cls, arguments


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(asked(), st.sampled_from("nsmlx"), st.sampled_from(PLACES), st.integers(-1, 100), SIZES, SIZES, st.booleans())
def test_any_attention_of_any_width_and_size(asked, scale, place, width, height, columns, training):
    cls, arguments = asked
    places, widths, count = layers_of(scale)
    try:
        # The widths of the place, and one that no YOLO has.
        rows = [each.row for each in model_yaml.resolve([place], places, cls.card.paper_place, count)]
        modules = {channels: cls(channels, **arguments) for channels in {*(widths[row] for row in rows), width}}
    except UserError:
        return
    for channels, module in modules.items():
        x = draw(0, 2, channels, height, columns).float()
        reference, fast = (getattr(module.train(training), form)(x) for form in ("reference", "fast"))
        assert reference.shape == fast.shape == x.shape
        assert torch.isfinite(fast).all()


@settings(max_examples=settings().max_examples // 10, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(ATTENTIONS)),
    st.sampled_from(["yolov8", "yolo11", "yolo12", "yolo26"]),
    st.sampled_from("ns"),
    st.sampled_from(PLACES),
    st.sampled_from(["identity", "paper"]),
    st.tuples(st.sampled_from([64, 96, 160]), st.sampled_from([64, 128])),
)
def test_any_attention_at_any_place_of_any_model(name, family, scale, place, start, size):
    plain = model(f"{family}{scale}")
    try:
        found = model_yaml.resolve(
            [place],
            model_yaml.places(plain.yaml, adding.measured_strides(plain)),
            ATTENTIONS[name].card.paper_place,
            len(plain.model),
        )
        cfg = model_yaml.with_suffix(plain.yaml, Spec(name, {}, start), [each.row for each in found])
        attended = tasks.DetectionModel(cfg, ch=3, verbose=False).eval()
    except UserError:
        return
    with torch.no_grad():
        out = attended(draw(0, 1, 3, *size).float().sigmoid())[0]
    assert torch.isfinite(out).all()
