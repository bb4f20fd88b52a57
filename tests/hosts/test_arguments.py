"""Arguments of Ultralytics are read as the host's own command reads them."""

import pytest
import ultralytics

from foveal import UserError
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import key_values, read, stock
from foveal.hosts.ultralytics.arguments import is_flag

pytestmark = pytest.mark.host

grammar = host.grammar
DEFAULTS, MODES = grammar.DEFAULT_CFG_DICT, {*grammar.MODES}
BOOLEAN = sorted(name for name, default in DEFAULTS.items() if isinstance(default, bool) and name not in MODES)


def as_the_host_reads(monkeypatch, words: list[str]) -> dict:
    """What stock `yolo export` hands to its model."""
    seen = {}

    class Model:
        task = "detect"

        def __init__(self, *_, **__):
            pass

        def export(self, **given):
            seen.update(given)

    monkeypatch.setattr(ultralytics, "YOLO", Model)
    grammar.entrypoint(" ".join(["yolo", "export", "model=x.pt", *words]))
    return {key: value for key, value in seen.items() if key not in ("mode", "model")}


@pytest.mark.parametrize(
    "words",
    [
        ["format=onnx", "dynamic"],
        ["format=onnx", "half", "int8"],
        ["format=onnx", "nms", "simplify=False", "--dynamic", "imgsz=96,"],
        pytest.param(  # the oldest host reads no list with spaces
            ["format", "=", "onnx", "imgsz", "=[96,", "128]", "conf=", "0.3", "name=007"], marks=pytest.mark.newest
        ),
        ["format=onnx", *BOOLEAN],
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_as_the_host(words, monkeypatch):
    ours, theirs = (
        grammar.get_cfg(overrides=given) for given in (key_values(words), as_the_host_reads(monkeypatch, words))
    )
    assert vars(ours) == {**vars(theirs), "mode": ours.mode}


def test_a_bare_name_is_a_flag_if_the_argument_is_boolean():
    assert len(BOOLEAN) > 20
    assert all(map(is_flag, {*BOOLEAN, *grammar.CFG_BOOL_KEYS} - MODES))
    assert not any(map(is_flag, ("imgsz", "format", "lr0", "data", "onnx", "val", "")))
    half, int8 = (key_values([name, "format=onnx"])[name] for name in ("half", "int8"))  # without a default since 8.4
    assert half is int8 is True


@pytest.mark.parametrize(
    ("word", "said", "hint"),
    [
        ("onnx", "cannot read 'onnx': it is neither KEY=VALUE nor a flag of Ultralytics", "write key=value, as in"),
        ("dynamc", "cannot read 'dynamc': it is neither", "did you mean 'dynamic'?"),
        ("imgsz", "cannot read 'imgsz': it is no flag, it needs a value", "write imgsz=640"),
        ("data", "cannot read 'data': it is no flag", "write data= and the value"),
        ("epochs=", "cannot read 'epochs=': it has no value", "write key=value, as in imgsz=640"),
    ],
)
def test_what_is_no_argument(word, said, hint, capsys):
    with pytest.raises(UserError) as error:
        key_values(["format=onnx", word])
    assert error.value.message.startswith(said)
    assert error.value.hint.startswith(hint)
    assert capsys.readouterr() == ("", "")  # the host would print its manual


@pytest.mark.newest
def test_a_bracket_without_its_other():
    for words in (["imgsz=[96,", "128"], ["]", "=x"]):
        with pytest.raises(UserError, match="a bracket is not closed"):
            key_values(words)


def test_words_may_be_asked_for():
    assert read(["plan.yaml", "epochs=3", "cos_lr"]) == ({"epochs": 3, "cos_lr": True}, ["plan.yaml"])


def test_tune_takes_flags_and_refuses_words(monkeypatch):
    seen = {}
    model = type("Model", (), {"tune": lambda self, **given: seen.update(given)})
    monkeypatch.setattr(stock, "load", lambda _, trust: model())
    for name in ("YOLO", "RTDETR"):  # which the command replaces
        monkeypatch.setattr(ultralytics, name, getattr(ultralytics, name))
    host.command("detect tune model=a.pt epochs=2 cos_lr use_ray iterations=3".split())
    assert seen == {"epochs": 2, "cos_lr": True, "use_ray": True, "iterations": 3}
    with pytest.raises(UserError, match="cannot read 'cosine'"):
        host.command("tune model=a.pt cosine".split())


def test_an_argument_that_a_release_lacks_is_refused_in_one_sentence():
    lacking = "distill_model" if "distill_model" not in DEFAULTS else "distil_model"
    with pytest.raises(UserError) as refused:
        host.train_arguments({lacking: "yolo11s.pt"})
    said = refused.value.message
    assert said.startswith(f"training arguments: '{lacking}' is not a valid YOLO argument")
    assert said.isprintable(), "the host colours it"
    assert not said.endswith((".", " "))
