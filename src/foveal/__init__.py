"""Attention modules for YOLO detectors.

Importing this package loads nothing else, not even torch: each public name is resolved on first use. The names stand in
`__init__.pyi`, which type checkers read as well; so do those of each package below.
"""

import sys
import types

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def _keep_address(name: str, home: str, names: list[str]) -> None:
    """Files name these where they lay when the first files were written, so `foveal.NAME` is still there."""
    module = types.ModuleType(f"foveal.{name}", f"What moved to foveal.{home}.{name}.")
    module.__getattr__, *_ = lazy_loader.attach(f"foveal.{home}", submod_attrs={name: names})
    sys.modules[module.__name__] = globals()[name] = module


_keep_address("classifier", "hosts.ultralytics", ["Answer", "Normalise"])
_keep_address("fusion", "deploy", ["Zero", "fuse", "left"])
