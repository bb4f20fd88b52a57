"""Builds EMA's C++ kernel beside the Python files; without a compiler foveal installs all the same, and says so."""

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class BuildLibrary(build_ext):
    """A plain shared library: it needs no headers of Python's, and one file serves every version of it."""

    def get_ext_filename(self, fullname: str) -> str:
        """Without the name of an interpreter in it."""
        return fullname.replace(".", "/") + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """No PyInit function."""
        return []


KERNELS = "src/foveal/kernels/ema/cpp"
setup(
    ext_modules=[
        Extension(
            "foveal.kernels.ema.libema",
            sources=[f"{KERNELS}/ema.cpp"],
            depends=[f"{KERNELS}/{name}.h" for name in ("steps", "slab", "lanes")],
            # Not -ffast-math: NaN must stay NaN, and linking with it changes the whole process's arithmetic.
            extra_compile_args=["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-Wno-psabi"],
            extra_link_args=["-pthread", "-ldl"],
            language="c++",
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildLibrary},
)
