"""Whatever is asked for builds and runs, or is refused in a sentence."""

import inspect

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foveal import ATTENTIONS, Spec, UserError, graft, insert
from helpers import draw

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

from ultralytics.nn import tasks

WIDTHS = st.one_of(st.sampled_from([16, 32, 64, 128, 256, 384, 512, 768]), st.integers(-1, 100))
SIZES = st.integers(1, 40)
VALUES = {
    int: st.integers(-1, 40),
    float: st.one_of(st.floats(-1, 4), st.integers(-1, 4)),
    bool: st.booleans(),
}


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


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(asked(), WIDTHS, SIZES, SIZES, st.booleans())
def test_any_attention_of_any_width_and_size(asked, channels, height, width, training):
    cls, arguments = asked
    try:
        module = cls(channels, **arguments)
    except UserError:
        return
    x = draw(0, 2, channels, height, width).float()
    reference, fast = (getattr(module.train(training), form)(x) for form in ("reference", "fast"))
    assert reference.shape == fast.shape == x.shape
    assert torch.isfinite(fast).all()


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(ATTENTIONS)),
    st.sampled_from(["yolov8", "yolo11", "yolo12", "yolo26"]),
    st.sampled_from("ns"),
    st.sampled_from(["neck", "P3", "P4", "P5", "backbone", "backbone.P3", "sppf", "psa", "paper", "0", "7", "99"]),
    st.sampled_from(["identity", "paper"]),
    st.tuples(st.sampled_from([64, 96, 160]), st.sampled_from([64, 128])),
)
def test_any_attention_at_any_place_of_any_model(name, family, scale, place, start, size):
    model = tasks.DetectionModel(tasks.yaml_model_load(f"{family}{scale}.yaml"), ch=3, verbose=False).eval()
    places = insert.places(model.yaml, graft._strides(model))
    try:
        rows = insert.resolve([place], places, ATTENTIONS[name].card.paper_place, len(insert.rows(model.yaml)))
        cfg = insert.with_suffix(model.yaml, Spec(name, {}, start), rows)
        attended = tasks.DetectionModel(cfg, ch=3, verbose=False)
    except UserError:
        return
    with torch.no_grad():
        out = attended.eval()(draw(0, 1, 3, *size).float().sigmoid())[0]
    assert torch.isfinite(out).all()
