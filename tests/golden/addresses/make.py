"""Small files as people have them: one for each address that pickles of foveal name, with an input and its output.

Run with the code of commit 0590590 and never again: what these files name must load for ever, wherever it moves.

PYTHONPATH=OLD/src python tests/golden/addresses/make.py

Attentions that came later are named, and run once with the code that brought them:

PYTHONPATH=src python tests/golden/addresses/make.py mlca gam caa scsa cpca
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import foveal
from foveal import ATTENTIONS, IdentityStart, attention, classifier, fusion
from foveal import yolo as host

HERE = Path(__file__).parent
WIDE = ("ema", "cab", "hab", "ocab", "placebo")  # which need 32 channels
ARGUMENTS = {"sa": {"groups": 4}, "sea": {"heads": 2, "key_dim": 4}}
TABLE = {
    "nc": 2,
    "backbone": [
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "Conv+placebo(groups=8)", [16, 3, 2]],
        [-1, 1, "EMA", [{"groups": 8}]],
        [-1, 1, "Conv+ema(groups=8)", [16, 3, 2]],
    ],
    "head": [[[3], 1, "Detect", ["nc"]]],
}


def keep(name: str, module: nn.Module, x: Tensor) -> None:
    """A module with what it makes of an input."""
    module = module.eval()
    with torch.no_grad():
        torch.save({"module": module, "input": x.clone(), "output": module(x)}, HERE / f"{name}.pt")


def drawn(module: nn.Module) -> nn.Module:
    """With parameters and statistics at which everything counts."""
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2
    for name, buffer in module.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return module


def main() -> None:
    """Write them all."""
    torch.manual_seed(0)
    x = torch.randn(1, 32, 8, 8)
    for name in sys.argv[1:] or ATTENTIONS:
        width = 32 if name in WIDE else 16
        keep(name, drawn(ATTENTIONS[name](width, **ARGUMENTS.get(name, {}))), x[:, :width])
    if sys.argv[1:]:
        return
    keep("identity_start", drawn(IdentityStart(ATTENTIONS["eca"](16), 16)), x[:, :16])
    keep("batch_norm", drawn(attention.BatchNorm(16)), x[:, :16])
    keep("conv_norm", drawn(attention.ConvNorm(nn.Conv2d(16, 16, 1, bias=False))), x[:, :16])
    for name in ("ema", "placebo"):
        started = nn.Sequential(nn.Conv2d(32, 32, 1), IdentityStart(ATTENTIONS[name](32), 32))
        keep(f"{name}_folded", foveal.fuse(drawn(started).eval()), x)
    keep("zero", fusion.Zero(), x)
    keep("normalise", classifier.Normalise((0.4, 0.5, 0.6), (0.2, 0.2, 0.3)), x[:, :3])
    keep("answer", classifier.Answer(16), x[:, :16, 0, 0])
    model = drawn(host.tasks.DetectionModel(TABLE, verbose=False)).eval()
    model.names, model.args, model.task = {0: "a", 1: "b"}, {"imgsz": 64}, "detect"
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        output = model(image)[0]
    saved = {"epoch": -1, "model": model, "ema": None, "train_args": {"task": "detect", "imgsz": 64}}
    torch.save({**saved, "input": image, "output": output}, HERE / "detector.pt")


if __name__ == "__main__":
    main()
