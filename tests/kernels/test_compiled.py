"""EMA's Triton kernels as the compiler leaves them, run thread by thread on a machine of our own (`ptx.py`)."""

import importlib
from pathlib import Path

import pytest
import torch

from helpers import swept
from kernelcases import CASES, Case, judge, kernels, truth

ROOT = Path(__file__).parents[2]

pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = pytest.mark.slow

# Beside those for interpreters, tiles as large as on real maps: several vectors a thread, halos, rows that wrap.
MORE = [
    Case((1, 4, 20, 20), 2, dtype=torch.bfloat16, weights=torch.float32, gained=True),
    Case((1, 4, 40, 40), 2, dtype=torch.bfloat16, single=True),
    Case((1, 8, 17, 24), 2, dtype=torch.bfloat16, weights=torch.float32),
    Case((2, 24, 8, 8), 2, gained=True),
    Case((1, 32, 10, 12), 2, last=True, dtype=torch.bfloat16, gained=True),
    Case((1, 3, 40, 1), 1, dtype=torch.float16, single=True, gained=True),
    Case((1, 2, 33, 47), 2),
    Case((1, 24, 4, 8), 1, dtype=torch.bfloat16, last=True),
]


@pytest.fixture
def compile_for(monkeypatch):
    """Makes the module `cuda` launch what the compiler makes for a GPU; returns what was found wrong."""
    from triton import compile as build
    from triton.backends.compiler import GPUTarget

    from foveal.kernels.ema import cuda
    from ptx import launch as run

    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    compiler = importlib.import_module("gpu_compiled")

    def use(capability: int, change=lambda ptx: ptx) -> list[str]:
        wrong = []

        def carry_out(launch):
            source = compiler.source(launch)
            built = build(source, target=GPUTarget("cuda", capability, 32), options=launch.compiler_options)
            names = [name for name, kind in source.signature.items() if kind != "constexpr"]
            given = dict(zip(launch.kernel.arg_names, launch.args, strict=False))
            arguments = {name: given[name] for name in names}
            said = run(change(built.asm["ptx"]), built.metadata.shared, arguments, launch.programs)
            wrong.extend(f"{launch.name}: {each}" for each in said)

        for name, kernel in [*vars(cuda).items()]:
            if name.endswith("_kernel"):
                monkeypatch.setattr(cuda, name, compiler.Noted(kernel, name, carry_out))
        return wrong

    return use


@pytest.mark.parametrize("capability", swept([90, 80, 75], "90"))
@pytest.mark.parametrize("case", swept(CASES + MORE, CASES[1].id, CASES[12].id, ids=lambda case: case.id))
def test_compiled_kernels_equal_the_reference_without_a_race(compile_for, case, capability):
    wrong = compile_for(capability)
    assert judge(*truth(case), kernels(case)) == []
    assert wrong == []


def test_a_missing_barrier_is_seen(compile_for):
    wrong = compile_for(90, lambda ptx: ptx.replace("bar.sync", "bar.warp.sync"))
    kernels(CASES[0])
    assert "gates: B is read where another thread writes" in wrong
