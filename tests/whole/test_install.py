"""What `make` shows while it installs."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "install.py"


def short(line: str) -> str:
    spec = importlib.util.spec_from_file_location("install", SCRIPT)
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module.short(line)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Downloading torch-2.15.0-cp311-cp311-manylinux_2_28_x86_64.whl (884.5 MB)\n", "  torch 2.15.0, 884.5 MB"),
        ("  Downloading https://mirror.example/simple/a/b/ml_dtypes-0.6.0-cp311-any.whl (5.1 MB)\n",
         "  ml_dtypes 0.6.0, 5.1 MB"),
        ("  Using cached grad-cam-1.5.7.tar.gz (7.8 MB)\n", "  grad-cam 1.5.7, 7.8 MB"),
        ("Processing /mnt/wheels/torch-2.15.0+cpu-cp311-cp311-linux_x86_64.whl\n", "  torch 2.15.0+cpu"),
        ("Installing collected packages: a, b, c\n", "  3 packages are being unpacked, which takes a minute or more"),
        ("Building wheels for collected packages: foveal\n", ""),
        ("  Building editable for foveal (pyproject.toml): started\n", "  foveal is being built"),
        ("  Building editable for foveal (pyproject.toml): finished with status 'done'\n", ""),
        ("Looking in indexes: https://user:secret@mirror.example/simple\n", ""),
        ("Collecting torch==2.15.0 (from -c constraints.txt (line 119))\n", ""),
        ("  Downloading torch-2.15.0-cp311-cp311-any.whl.metadata (29 kB)\n", ""),
        ("Requirement already satisfied: numpy in ./x (1.0)\n", ""),
    ],
)  # fmt: skip
def test_a_package_is_a_line_and_no_address_is_shown(line, said):
    assert short(line) == said


def test_failure_of_pip_is_failure_and_says_why(tmp_path):
    offline = os.environ | {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    done = subprocess.run(
        [sys.executable, SCRIPT, "--target", tmp_path, "no-such-package"],
        env=offline, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert "no-such-package" in done.stderr
