"""Make the golden numbers from the authors' own code: python tests/golden/make.py CHECKOUTS [NAME...].

CHECKOUTS holds one folder per repository, at the commits that README.md lists. A developer's tool: nothing of what it
reads is kept here, and no test runs it.
"""

import argparse
import ast
import json
import math
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "builders"))
from helpers import GOLDEN, draw, drawn_state


def official(path: Path, name: str) -> SimpleNamespace:
    """A class of an official file, with what it refers to in that file.

    The rest of the file and its imports do not run, so that mmcv, basicsr and the like need not be installed.
    """
    body = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    definitions = {node.name: node for node in body}
    wanted, found = {name}, set()
    while wanted:
        found |= wanted
        words = {word.id for each in wanted for word in ast.walk(definitions[each]) if isinstance(word, ast.Name)}
        wanted = words & definitions.keys() - found
    kept = [node for node in body if node.name in found]
    for node in kept:
        node.decorator_list = []  # Registers of model zoos.
    names = outside()
    exec(compile(ast.Module(kept, []), str(path), "exec"), names)
    return SimpleNamespace(**names)


def outside() -> dict[str, object]:
    """What the official files import, and stand-ins of the same meaning for what is not torch's."""
    from functorch.einops.rearrange import rearrange

    return {
        "torch": torch,
        "nn": nn,
        "F": nn.functional,
        "math": math,
        "Parameter": nn.Parameter,
        "einsum": torch.einsum,
        "rearrange": rearrange,
        "to_2tuple": lambda n: (n, n),  # timm and basicsr; only ever given an integer
        "trunc_normal_": nn.init.trunc_normal_,  # timm and basicsr
        "build_norm_layer": lambda _, channels: ("bn", nn.BatchNorm2d(channels)),  # mmcv's for type "BN"
        "print": lambda *_: None,  # FLatten prints while it is built
        "t": typing,
        "Optional": typing.Optional,
        "BaseModule": BaseModule,
        "ConvModule": ConvModule,
    }


class BaseModule(nn.Module):
    """mmengine's, without what it knows of initial values."""

    def __init__(self, init_cfg=None):
        super().__init__()


class ConvModule(nn.Module):
    """mmcv's for norms of type "BN" and SiLU, with its names: a bias only where there is no norm."""

    def __init__(self, *sizes, norm_cfg, act_cfg, groups=1):
        super().__init__()
        self.conv = nn.Conv2d(*sizes, groups=groups, bias=norm_cfg is None)
        if norm_cfg is not None:
            self.bn = nn.BatchNorm2d(sizes[1], norm_cfg["eps"], norm_cfg["momentum"])
        self.activate = nn.Identity() if act_cfg is None else getattr(nn, act_cfg["type"])()

    def forward(self, x):
        x = self.conv(x)
        return self.activate(self.bn(x) if hasattr(self, "bn") else x)


def plain(_official, _a, module, x):
    return module(x)


def tokens(module, x, *others):
    """Run a module of (B, N, C)."""
    y = module(x.flatten(2).transpose(1, 2), *others)
    return y.transpose(1, 2).reshape(x.shape)


def channels_last(_official, _a, module, x):
    return module(x.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2)


def se(o, a):
    if not a.bias:
        return o.SELayer(a.C, a.reduction)
    from torchvision.ops import SqueezeExcitation  # The authors' own, which has biases, is for Caffe.

    return SqueezeExcitation(a.C, a.C // a.reduction)


def msda(o, a):
    module = o.MultiDilatelocalAttention(a.C, a.heads, a.qkv_bias, kernel_size=a.kernel_size, dilation=a.dilations)
    # The forward pass overwrites its input, which `qkv` keeps for the backward pass: give that one a copy.
    module.qkv.register_forward_pre_hook(lambda _, inputs: (inputs[0].clone(),))
    return module


def hat(a):
    """The settings from which class HAT computes index tables and mask for its blocks."""
    ratio = getattr(a, "overlap_ratio", None)
    return SimpleNamespace(window_size=a.window_size, shift_size=a.window_size // 2, overlap_ratio=ratio)


def hab(o, a, module, x):
    return tokens(module, x, a.map, o.HAT.calculate_rpi_sa(hat(a)), o.HAT.calculate_mask(hat(a), a.map))


def ocab(o, a, module, x):
    return tokens(module, x, a.map, o.HAT.calculate_rpi_oca(hat(a)))


def build_hab(o, a):
    own = ("window_size", "shift_size", "compress_ratio", "squeeze_factor", "conv_scale", "mlp_ratio")
    return o.HAB(a.C, a.map, a.heads, **{name: getattr(a, name) for name in own})


def build_sea(o, a):
    return o.Sea_Attention(a.C, a.key_dim, a.heads, a.attn_ratio, activation=nn.ReLU6)


def caa(o, a):
    if a.norm:
        return o.CAA(a.C, a.h_kernel_size, a.v_kernel_size)
    return o.CAA(a.C, a.h_kernel_size, a.v_kernel_size, None, None)  # as InceptionBottleneck calls it


def grouped_gam(o, a):
    module = o.GAM_Attention(a.C, a.C, True, a.rate)
    module.channel_attention.append(nn.Sigmoid())  # The paper has it, and this copy has not.
    return module


def case(*shape: int, seed: int, training: bool = False, **arguments) -> dict:
    return {"arguments": arguments, "shape": list(shape), "seed": seed, "training": training}


@dataclass(frozen=True)
class Entry:
    """How to make one file.

    `build` and `run` get the official definitions and our arguments, with the channels as C and (H, W) as map; `run`
    takes and returns NCHW, whatever the official layout is.
    """

    repository: str
    file: str
    name: str
    build: Callable
    cases: list[dict]
    run: Callable = plain


# One entry, or two where no single copy has all cases.
ENTRIES = {
    "ema": Entry(
        "EMA-attention-module",
        "EMA_attention_module",
        "EMA",
        lambda o, a: o.EMA(a.C, factor=a.groups),
        [
            case(2, 8, 5, 7, seed=0, groups=4),
            case(1, 12, 1, 6, seed=1, groups=2),
            case(2, 4, 4, 3, seed=2, groups=4),
            case(1, 64, 3, 2, seed=3, groups=32),
        ],
    ),
    "coord": Entry(
        "CoordAttention",
        "coordatt.py",
        "CoordAtt",
        lambda o, a: o.CoordAtt(a.C, a.C, a.reduction),
        [
            case(2, 16, 5, 7, seed=10, reduction=32),
            case(2, 24, 4, 3, seed=11, reduction=2),
            case(2, 16, 6, 4, seed=12, training=True, reduction=4),
        ],
    ),
    "lska": Entry(
        "Large-Separable-Kernel-Attention",
        "models/van.py",
        "LSKA",
        lambda o, a: o.LSKA(a.C, a.kernel_size),
        [
            case(2, 8, 5, 7, seed=20, kernel_size=7),
            case(1, 8, 7, 6, seed=21, kernel_size=11),
            case(2, 8, 7, 11, seed=22, kernel_size=23),
            case(1, 8, 17, 8, seed=23, kernel_size=35),
        ],
    ),
    "msda": Entry(
        "dilateformer",
        "models/dilateformer.py",
        "MultiDilatelocalAttention",
        msda,
        [
            case(2, 16, 5, 7, seed=30, heads=4, dilations=[1, 2], kernel_size=3, qkv_bias=False),
            case(1, 24, 9, 4, seed=31, heads=8, dilations=[1, 2, 3, 4], kernel_size=3, qkv_bias=True),
        ],
        channels_last,
    ),
    "mhsa": Entry(
        "bottleneck-transformer-pytorch",
        "bottleneck_transformer_pytorch/bottleneck_transformer_pytorch.py",
        "Attention",
        lambda o, a: o.Attention(
            dim=a.C, fmap_size=tuple(a.size), heads=a.heads, dim_head=a.C // a.heads, rel_pos_emb=True
        ),
        [
            case(2, 16, 5, 7, seed=40, heads=4, size=[5, 7]),
            case(2, 12, 6, 4, seed=41, heads=2, size=[6, 4]),
        ],
    ),
    "fla": Entry(
        "FLatten-Transformer",
        "models/flatten_swin.py",
        "FocusedLinearAttention",
        lambda o, a: o.FocusedLinearAttention(
            a.C, (a.size, a.size), a.heads, focusing_factor=a.focusing_factor, kernel_size=a.kernel_size
        ),
        [
            case(2, 16, 6, 6, seed=50, heads=4, focusing_factor=3, kernel_size=5, size=6),
            case(2, 12, 5, 5, seed=51, heads=2, focusing_factor=2, kernel_size=3, size=5),
        ],
        lambda o, a, module, x: tokens(module, x),
    ),
    "lsk": Entry(
        "LSKNet",
        "mmrotate/models/backbones/lsknet.py",
        "LSKblock",
        lambda o, a: o.LSKblock(a.C),
        [case(2, 8, 5, 7, seed=60), case(2, 9, 8, 3, seed=61), case(1, 8, 13, 11, seed=62)],
    ),
    "cab": Entry(
        "HAT",
        "hat/archs/hat_arch.py",
        "CAB",
        lambda o, a: o.CAB(a.C, a.compress_ratio, a.squeeze_factor),
        [
            case(2, 12, 5, 7, seed=70, compress_ratio=3, squeeze_factor=4),
            case(2, 16, 6, 4, seed=72, compress_ratio=5, squeeze_factor=6),
        ],
    ),
    "hab": Entry(
        "HAT",
        "hat/archs/hat_arch.py",
        "HAT",
        build_hab,
        [
            case(
                *(1, 8, 8, 12),
                seed=80,
                **{"heads": 4, "window_size": 4, "shift_size": 0, "mlp_ratio": 1.5},
                **{"compress_ratio": 3, "squeeze_factor": 4, "conv_scale": 0.01},
            ),
            case(
                *(2, 8, 8, 12),
                seed=82,
                **{"heads": 2, "window_size": 4, "shift_size": 2, "mlp_ratio": 2.0},
                **{"compress_ratio": 2, "squeeze_factor": 3, "conv_scale": 0.3},
            ),
        ],
        hab,
    ),
    "ocab": Entry(
        "HAT",
        "hat/archs/hat_arch.py",
        "HAT",
        lambda o, a: o.OCAB(a.C, a.map, a.window_size, a.overlap_ratio, a.heads, mlp_ratio=a.mlp_ratio),
        [
            case(1, 8, 8, 12, seed=90, heads=4, window_size=4, overlap_ratio=0.5, mlp_ratio=1.5),
            case(2, 8, 12, 8, seed=91, heads=2, window_size=4, overlap_ratio=0.5, mlp_ratio=2.0),
        ],
        ocab,
    ),
    "sea": Entry(
        "SeaFormer",
        "seaformer-cls/seaformer.py",
        "Sea_Attention",
        build_sea,
        [
            case(2, 8, 5, 7, seed=100, heads=2, key_dim=2, attn_ratio=2.0),
            case(1, 8, 18, 5, seed=101, heads=2, key_dim=3, attn_ratio=1.5),
            case(2, 8, 6, 4, seed=102, training=True, heads=2, key_dim=2, attn_ratio=2.0),
        ],
    ),
    "se": Entry(
        "senet.pytorch",
        "senet/se_module.py",
        "SELayer",
        se,
        [
            case(2, 16, 5, 7, seed=110, reduction=4, bias=False),
            case(2, 24, 4, 3, seed=111, reduction=8, bias=False),
            case(2, 16, 7, 5, seed=112, reduction=4, bias=True),
            case(2, 24, 3, 4, seed=113, reduction=8, bias=True),
        ],
    ),
    "cbam": Entry(
        "attention-module",
        "MODELS/cbam.py",
        "CBAM",
        lambda o, a: o.CBAM(a.C, a.reduction),
        [
            case(2, 16, 5, 7, seed=120, reduction=4),
            case(2, 24, 6, 3, seed=121, reduction=16),
            case(2, 16, 6, 4, seed=123, training=True, reduction=4),
        ],
    ),
    "eca": Entry(
        "ECANet",
        "models/eca_module.py",
        "eca_layer",
        lambda o, a: o.eca_layer(a.C, a.kernel_size),
        [case(2, 8, 5, 7, seed=130, kernel_size=3), case(2, 16, 4, 3, seed=131, kernel_size=5)],
    ),
    "sa": Entry(
        "SA-Net",
        "models/sa_resnet.py",
        "sa_layer",
        lambda o, a: o.sa_layer(a.C, a.groups),
        [case(2, 16, 5, 7, seed=140, groups=4), case(2, 24, 4, 3, seed=141, groups=2)],
    ),
    "nam": Entry(
        "NAM",
        "MODELS/attention.py",
        "Att",
        lambda o, a: o.Att(a.C, None),
        [case(2, 16, 5, 7, seed=150), case(2, 8, 4, 3, seed=151), case(2, 16, 3, 5, seed=152, training=True)],
    ),
    "simam": Entry(
        "SimAM",
        "networks/attentions/simam_module.py",
        "simam_module",
        lambda o, a: o.simam_module(e_lambda=a.e_lambda),
        [case(2, 8, 5, 7, seed=160, e_lambda=1e-4), case(2, 12, 4, 3, seed=161, e_lambda=0.3)],
    ),
    "triplet": Entry(
        "triplet-attention",
        "triplet_attention.py",
        "TripletAttention",
        lambda o, a: o.TripletAttention(),
        [case(2, 8, 5, 7, seed=170), case(2, 12, 9, 4, seed=171), case(2, 8, 6, 4, seed=172, training=True)],
    ),
    "mlca": Entry(
        "MLCA",
        "MLCA.py",
        "MLCA",
        lambda o, a: o.MLCA(a.C, a.local_size, local_weight=a.local_weight),
        [
            case(2, 8, 5, 10, seed=180, local_size=5, local_weight=0.5),
            case(1, 8, 11, 13, seed=181, local_size=5, local_weight=0.5),
            case(2, 8, 3, 4, seed=182, local_size=5, local_weight=0.5),
            case(1, 128, 4, 2, seed=183, local_size=3, local_weight=0.3),
        ],
    ),
    "gam": (
        Entry(
            "objectdetection_script",
            "cv-attention/GAM.py",
            "GAM_Attention",
            lambda o, a: o.GAM_Attention(a.C, a.rate),
            [
                case(1, 8, 5, 7, seed=190, rate=4, groups=1),
                case(1, 9, 8, 3, seed=191, rate=3, groups=1),
                case(2, 6, 4, 3, seed=192, training=True, rate=2, groups=1),
            ],
        ),
        Entry(
            "Cargo-Yolov11",
            "ultralytics/ultralytics/nn/attention/attention.py",
            "GAM_Attention",
            grouped_gam,
            [case(1, 16, 4, 3, seed=193, rate=4, groups=4)],
        ),
    ),
    "caa": Entry(
        "PKINet",
        "mmrotate/models/backbones/pkinet.py",
        "CAA",
        caa,
        [
            case(2, 8, 5, 7, seed=200, h_kernel_size=11, v_kernel_size=11, norm=True),
            case(1, 6, 13, 9, seed=201, h_kernel_size=13, v_kernel_size=7, norm=False),
            case(2, 6, 6, 4, seed=202, training=True, h_kernel_size=5, v_kernel_size=9, norm=True),
        ],
        lambda o, a, module, x: x * module(x),
    ),
    "scsa": Entry(
        "SCSA",
        "mmpretrain/models/attentions/SCSA.py",
        "SCSA",
        lambda o, a: o.SCSA(a.C, a.heads, a.window_size),
        [
            case(1, 8, 14, 7, seed=210, heads=1, window_size=7),
            case(1, 12, 8, 15, seed=211, heads=3, window_size=7),
            case(2, 16, 5, 7, seed=212, heads=4, window_size=2),
        ],
    ),
    "cpca": Entry(
        "CPCANet",
        "CPCANet/nnunet/network_architecture/CPCANet.py",
        "RepBlock",
        lambda o, a: o.RepBlock(a.C, a.C, a.reduction),
        [
            case(2, 8, 5, 7, seed=220, reduction=4),
            case(1, 6, 13, 9, seed=221, reduction=3),
            case(1, 8, 4, 25, seed=222, reduction=8),
        ],
    ),
}


def numbers(entry: Entry, definitions: SimpleNamespace, case: dict) -> dict:
    shape, seed = case["shape"], case["seed"]
    a = SimpleNamespace(**case["arguments"], C=shape[1], map=tuple(shape[2:]))
    module = entry.build(definitions, a)
    module.train(case["training"])
    state = {name: tensor for name, tensor in sorted(module.state_dict().items()) if tensor.is_floating_point()}
    for name, value in drawn_state({name: tensor.shape for name, tensor in state.items()}, seed).items():
        state[name].copy_(value)
    x = (1.3 * draw(2 * seed, *shape) + 0.4).requires_grad_()
    y = entry.run(definitions, a, module, x)
    y.backward(draw(2 * seed + 1, *shape))
    parameters = dict(sorted(module.named_parameters()))
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in parameters.items()}
    buffers = {name: state[name] for name in state if name not in parameters and case["training"]}
    results = {"output": y, "input": x.grad, "gradients": gradients, "buffers": buffers}
    return case | {"state": {name: list(tensor.shape) for name, tensor in state.items()}} | flat(results)


def flat(results):
    if isinstance(results, dict):
        return {name: flat(value) for name, value in results.items()}
    assert results.dtype == torch.float64
    return results.detach().flatten().tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkouts", type=Path, metavar="CHECKOUTS")
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(ENTRIES))
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    for name in options.names:
        lines = []
        for entry in ENTRIES[name] if isinstance(ENTRIES[name], tuple) else (ENTRIES[name],):
            definitions = official(options.checkouts / entry.repository / entry.file, entry.name)
            made = (numbers(entry, definitions, case) for case in entry.cases)
            lines += [json.dumps(each, separators=(",", ":"), allow_nan=False) for each in made]
        (GOLDEN / f"{name}.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
