"""EMA's C++ kernel as a file: finding and opening it, for which nobody needs torch.

`cpp/ema.cpp` is compiled when foveal is installed, if there is a compiler. It knows nothing of torch, so one build
serves every release of it.
"""

import ctypes
from pathlib import Path

LIBRARY = Path(__file__).with_name("libema.so")
VERSION = 5  # of the interface; a library left over from another one is not called
NOT_BUILT = "the C++ kernel was not built: foveal was installed without a C++ compiler (GCC or Clang)"

_Pointer, _Int = ctypes.c_void_p, ctypes.c_int


def load() -> ctypes.CDLL | None:
    """The library, if there is one that can be called."""
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    if library.foveal_ema_version() != VERSION:
        return None
    start = _Int, _Int, _Int, _Pointer
    library.foveal_ema_forward.argtypes = [*start, *[_Pointer] * 6, ctypes.c_float, _Pointer, _Pointer]
    library.foveal_ema_backward.argtypes = [*start, *[_Pointer] * 8, ctypes.c_float, *[_Pointer] * 3]
    return library
