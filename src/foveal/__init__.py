"""Attention modules for YOLO detectors.

Importing this package loads nothing else, not even torch: each public name below is resolved on first use.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "ATTENTIONS": "attention",
    "Attention": "attention",
    "Card": "attention",
    "EMAttention": "attention",
    "IdentityStart": "surgery",
    "Spec": "spec",
    "UserError": "errors",
    "add": "graft",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'foveal' has no attribute {name!r}")
    return getattr(import_module(f"foveal.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
