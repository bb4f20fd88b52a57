"""Which attention a pasted class is: the authors' classes, copies under other names, and what only looks like one."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import pasted_copies
from foveal import ATTENTIONS, UserError
from foveal.checkpoints import Node, read
from foveal.convert.recognition import Pasted, Said, candidates, without_doubt
from helpers import GOLDEN, draw, drawn_state, filled

pytestmark = pytest.mark.usefixtures("own_folder")

RECORDED = {
    "ema": ("groups",),
    "sa": ("groups",),
    "mhsa": ("heads",),
    "msda": {"num_heads": "heads", "dilation": "dilations", "kernel_size": "kernel_size"},
    "fla": {"num_heads": "heads", "focusing_factor": "focusing_factor"},
    "sea": {"num_heads": "heads"},
    "simam": ("e_lambda",),
    "mlca": ("local_size", "local_weight"),
    "scsa": {"head_num": "heads", "window_size": "window_size"},
}
SILENT = {
    "coord": nn.Hardswish(),
    "cab": nn.GELU(),
    "sea": nn.Hardsigmoid(),
    "ema": nn.Softmax(-1),
    "se": nn.ReLU(),
    "cpca": nn.GELU(),
}
CASES = [
    pytest.param(name, case, id=f"{name}-{case['arguments']}")
    for name in ATTENTIONS
    if name not in ("placebo", "hab", "ocab", "gam")
    for case in json.loads((GOLDEN / f"{name}.json").read_text())
    if not case["training"]
]


def official(name: str, case: dict) -> nn.Module:
    """A module with the authors' names and numbers, in torch's layers; it cannot run and need not."""
    cls, root = ATTENTIONS[name], nn.Module()
    like = cls(case["shape"][1], **case["arguments"])
    for full, value in drawn_state(case["state"], case["seed"]).items():
        *parents, last = full.split(".")
        node = root
        for parent in parents:
            if not hasattr(node, parent):
                node.add_module(parent, nn.Module())
            node = getattr(node, parent)
        (ours,) = cls.from_official({full: value})
        layer = like.get_submodule(ours.rpartition(".")[0])
        if parents and any(base.__module__.startswith("torch.nn.modules.") for base in type(layer).__mro__[:-2]):
            if isinstance(layer, nn.Linear) and last == "weight" and value.dim() == 4:
                layer = nn.Conv2d(*value.shape[1::-1], 1)
            if not (isinstance(layer, nn.Linear) and isinstance(node, nn.Conv2d)):
                node.__class__ = nn.BatchNorm2d if isinstance(layer, nn.BatchNorm2d) else type(layer)
                vars(node).update({k: v for k, v in vars(layer).items() if not k.startswith("_")})
        store = node.register_buffer if "running_" in last else node.register_parameter
        store(last, value if "running_" in last else nn.Parameter(value))
        if last == "running_var":
            node.register_buffer("num_batches_tracked", torch.tensor(0))
    names = RECORDED.get(name, ())
    for theirs, ours in (names if isinstance(names, dict) else dict(zip(names, names, strict=True))).items():
        setattr(root, theirs, case["arguments"][ours])
    channels = case["shape"][1]
    if name in ("mhsa", "msda"):
        root.scale = (channels // case["arguments"]["heads"]) ** -0.5
    if name == "sea":
        root.scale = case["arguments"]["key_dim"] ** -0.5
    if name == "cbam":
        root.ChannelGate.pool_types = ["avg", "max"]
    if name == "scsa":
        root.scaler, root.down_sample_mode = (channels // case["arguments"]["heads"]) ** -0.5, "avg_pool"
    if name in SILENT:
        root.act = SILENT[name]
    if name == "caa" and case["arguments"]["norm"]:
        root.conv1.activate, root.conv2.activate = nn.SiLU(), nn.SiLU()
    if name == "se":
        root.pool, root.gate = nn.AdaptiveAvgPool2d(1), nn.Sigmoid()
    return root


def recognise(node: Node) -> list[Pasted]:
    """Every attention of foveal that a module is by what it stores."""
    return without_doubt(candidates(node))


def stored(module: nn.Module, path: str = "module.pt") -> Node:
    torch.save(module, path)
    return read(Path(path)).saved


@pytest.mark.parametrize(("name", "case"), CASES)
def test_every_authors_class_is_recognised_and_gives_its_numbers(name, case):
    (found,) = recognise(stored(official(name, case)))
    assert found.spec.name == name
    module = ATTENTIONS[name](case["shape"][1], **found.spec.arguments).double().eval()
    module.load_state_dict(module.state_dict() | found.state)
    out = module(1.3 * draw(2 * case["seed"], *case["shape"]) + 0.4)
    true = torch.tensor(case["output"], dtype=torch.float64)
    assert float((out.detach().flatten() - true.flatten()).abs().max()) <= 1e-12 * max(1.0, float(true.abs().max()))


def ema() -> nn.Module:
    return official("ema", json.loads((GOLDEN / "ema.json").read_text())[0])


def without_groups(module):
    del module.groups


def groups_in_words(module):
    module.groups = "4"


def another_dilation(module):
    module.conv3x3.dilation, module.conv3x3.padding = (2, 2), (2, 2)


def another_eps(module):
    module.gn.eps = 1e-3


def another_activation(module):
    module.act = nn.SiLU()


def one_tensor_more(module):
    module.gain = nn.Parameter(torch.ones(2))


def other_groups_of_the_norm(module):
    module.gn.num_groups = 1


@pytest.mark.parametrize(
    "change",
    [
        without_groups,
        groups_in_words,
        another_dilation,
        another_eps,
        another_activation,
        one_tensor_more,
        other_groups_of_the_norm,
    ],
)
def test_a_copy_that_computes_something_else_is_not_recognised(change):
    module = ema()
    assert recognise(stored(module))
    change(module)
    assert not recognise(stored(module))


@pytest.mark.parametrize("parts", [("first",), ("last",), ("first", "last")])
def test_caa_with_a_norm_that_no_activation_follows_is_not_recognised(parts):
    copy = pasted_copies.Cross(32)
    for part in parts:
        getattr(copy, part).act = nn.Identity()
    assert not recognise(stored(copy))


def test_an_activation_that_the_paper_has_not_is_not_recognised():
    case = json.loads((GOLDEN / "coord.json").read_text())[0]
    module = official("coord", case)
    module.act = nn.ReLU6()
    assert not recognise(stored(module))
    module.act = nn.Hardswish()
    assert recognise(stored(module))


# Copies ------------------------------------------------------------------------------------------------------------


def copied(name: str) -> nn.Module:
    """A copy of 32 channels with drawn weights, in double precision."""
    with torch.no_grad():
        return filled(getattr(pasted_copies, name)(32).double().eval())


def apart(copy: nn.Module, found) -> float:
    x = draw(1, 2, found.channels, 9, 7)
    with torch.no_grad():
        return float((copy(x) - found.build()(x)).abs().max())


KNOWN = {
    "Squeeze": "se(reduction=4, bias=False, start=paper)",
    "SqueezeOfConvolutions": "se(reduction=4, bias=True, start=paper)",
    "TwoGates": "cbam(reduction=4, start=paper)",
    "TwoGatesInSequence": "cbam(reduction=4, start=paper)",
    "TwoGatesOfLinearLayers": "cbam(reduction=4, start=paper)",
    "MaximumFirst": "cbam(reduction=4, start=paper)",
    "Sides": "coord(reduction=32, start=paper)",
    "Slabs": "ema(groups=8, start=paper)",
    "Neighbours": "eca(kernel_size=3, start=paper)",
    "Cross": "caa(h_kernel_size=9, v_kernel_size=11, norm=True, start=paper)",
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_copy_under_other_names_is_taken_over_exactly(name):
    copy = copied(name)
    (found,) = recognise(stored(copy))
    assert str(found.spec) == KNOWN[name]
    assert apart(copy, found) < 1e-12


def test_what_a_copy_lacks_is_added_and_changes_nothing():
    (found,) = recognise(stored(copied("TwoGates")))
    assert {name for name in found.added if not name.startswith("spatial.norm.")} == {"fc1.bias", "fc2.bias"}
    norm = {
        name: float(found.state[f"spatial.norm.{name}"]) for name in ("weight", "bias", "running_mean", "running_var")
    }
    assert norm == {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1 - 1e-5}
    assert not recognise(stored(copied("Squeeze")))[0].added


def test_a_bias_before_a_norm_goes_into_its_mean():
    copy = copied("TwoGates")
    copy.map = filled(nn.Sequential(nn.Conv2d(2, 1, 7, padding=3), nn.BatchNorm2d(1, eps=1e-3)).double().eval())
    (found,) = recognise(stored(copy))
    assert found.shifted == ("spatial.norm.running_var", "spatial.norm.running_mean")
    assert apart(copy, found) < 1e-12


def test_what_the_file_cannot_tell_is_said():
    (first,) = recognise(stored(copied("TwoGates")))
    (second,) = recognise(stored(copied("MaximumFirst")))
    assert first.assumed == ("its kernel takes the mean over channels first",)
    assert second.assumed == ("its kernel takes the maximum over channels first",)
    (sides,) = recognise(stored(copied("Sides")))
    assert sides.assumed == ("F_h is gate_h and F_w is gate_w",)
    (released,) = recognise(stored(copied("EnergyAsReleased")))
    assert "e_lambda alone" in released.assumed[0]
    assert not recognise(stored(copied("Squeeze")))[0].assumed


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MaximumFirstUnseen", "cbam(first=max)"),
        ("SidesInOtherOrder", "coord(gate_h=F_w, gate_w=F_h)"),
        ("Energy", "simam"),
        ("EnergyOfEps", "SimAM"),
        ("Slabs", "ema(groups=8)"),
    ],
)
def test_what_a_person_says_settles_it(name, text):
    copy = copied(name)
    found = candidates(stored(copy), Said.parse(text))[0]
    assert found.certain
    assert not found.assumed
    assert apart(copy, found) < 1e-12


def test_a_person_cannot_say_away_what_is_stored():
    assert not candidates(stored(copied("TwoGates")), Said.parse("ema"))
    assert not candidates(stored(copied("Sides")), Said.parse("coord(gate_h=squeeze)"))
    assert not candidates(stored(copied("Slabs")), Said.parse("ema(groups=8)"))[0].against
    assert candidates(stored(copied("SlabsOverAll")), Said.parse("ema"))[0].against


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("simam(", "cannot read"),
        ("simam(1)", "cannot read"),
        ("cbam(first=left)", "neither of the two maps"),
        ("hab", "no pasted hab"),
        ("nothing", "no attention is named"),
        ("simam(groups=3)", "no argument 'groups'"),
    ],
)
def test_what_cannot_be_read_is_refused(text, part):
    with pytest.raises(UserError, match=part) as refused:
        Said.parse(text)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("name", "part", "layer", "against"),
    [
        ("Slabs", "weigh", nn.Softmax(1), "weigh has dim=1 instead of -1"),
        ("Slabs", "pool", nn.AdaptiveAvgPool2d(2), "pool has output_size=2 instead of 1"),
        ("Slabs", "along_h", nn.AdaptiveAvgPool2d((1, None)), "two of its pools go over the same side"),
        ("Sides", "rows", nn.AdaptiveAvgPool2d((20, 1)), "rows has output_size=(20, 1)"),
        ("Sides", "act", nn.ReLU(), "act is a torch.nn.modules.activation.ReLU"),
        ("Squeeze", "relu", nn.SiLU(), "relu is a torch.nn.modules.activation.SiLU"),
        ("Squeeze", "sig", nn.Hardsigmoid(), "sig is a torch.nn.modules.activation.Hardsigmoid"),
        ("TwoGates", "max", nn.AdaptiveMaxPool2d(3), "max has output_size=3"),
        (
            "TwoGates",
            "map",
            nn.Conv2d(2, 1, 7, padding=3, padding_mode="reflect", bias=False),
            "padding_mode='reflect'",
        ),
        ("TwoGates", "map", nn.Conv2d(2, 1, 7, padding=9, dilation=3, bias=False), "dilation=(3, 3)"),
        ("Neighbours", "mix", nn.Conv1d(1, 1, 3, bias=False), "padding=(0,)"),
        ("Cross", "pool", nn.AvgPool2d(5, 1, 2), "pool has kernel_size=5 instead of 7"),
    ],
)
def test_another_setting_speaks_against_it(name, part, layer, against):
    copy = getattr(pasted_copies, name)(32)
    assert recognise(stored(copy))
    setattr(copy, part, layer)
    node = stored(copy)
    assert not recognise(node)
    assert any(against in each for found in candidates(node) for each in found.against)


def test_authors_pools_are_told_apart_by_name():
    module = ema()
    module.pool_h, module.pool_w = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
    assert recognise(stored(module))
    module.pool_h, module.pool_w = module.pool_w, module.pool_h
    assert not recognise(stored(module))


@pytest.mark.parametrize(
    ("name", "change", "weak"),
    [
        ("Energy", {}, "nothing but lambda_val=0.001"),
        ("EnergyOfEps", {}, "nothing but eps=0.001"),
        ("TwoGates", {"shortcut": True}, "what shortcut=True means"),
        ("Squeeze", {"blend": 0.5}, "what blend=0.5 means"),
        ("Squeeze", {"sig": nn.Identity()}, "it stores no Sigmoid"),
        ("Sides", {"act": nn.Identity()}, "it stores no Hardswish or h_swish"),
    ],
)
def test_too_little_is_no_evidence(name, change, weak):
    copy = getattr(pasted_copies, name)(32)
    for key, value in change.items():
        setattr(copy, key, value)
    node = stored(copy)
    assert not recognise(node)
    assert any(weak in found.weak for found in candidates(node))


def test_a_class_of_its_own_in_a_layers_place_is_no_layer():
    class Convolution(nn.Conv2d):
        def forward(self, x):
            return -super().forward(x)

    Convolution.__module__ = "pasted_copies"
    pasted_copies.Convolution = Convolution
    Convolution.__qualname__ = "Convolution"
    try:
        copy = pasted_copies.Slabs(32)
        copy.large = Convolution(4, 4, 3, padding=1)
        assert not candidates(stored(copy))
    finally:
        del pasted_copies.Convolution
