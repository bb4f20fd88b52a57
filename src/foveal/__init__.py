"""Attention modules for YOLO detectors.

Importing this package loads nothing else, not even torch: each public name below is resolved on first use.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "ATTENTIONS": "attention",
    "Attention": "attention",
    "CBAM": "attention",
    "Card": "attention",
    "ChannelAttentionBlock": "attention",
    "CoordAttention": "attention",
    "ECA": "attention",
    "EMAttention": "attention",
    "FocusedLinearAttention": "attention",
    "HybridAttentionBlock": "attention",
    "IdentityStart": "surgery",
    "LSKA": "attention",
    "LSKBlock": "attention",
    "MHSA": "attention",
    "MSDA": "attention",
    "NAM": "attention",
    "OverlappingCrossAttentionBlock": "attention",
    "Placebo": "attention",
    "SeaAttention": "attention",
    "ShuffleAttention": "attention",
    "SimAM": "attention",
    "Spec": "spec",
    "SqueezeExcitation": "attention",
    "TripletAttention": "attention",
    "UserError": "errors",
    "add": "graft",
    "attach": "attaching",
    "detach": "attaching",
    "export": "deploy",
    "fuse": "fusion",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'foveal' has no attribute {name!r}")
    return getattr(import_module(f"foveal.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
