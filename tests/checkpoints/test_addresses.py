"""Files that people have: what they name loads in every process, and computes what it did when they were written."""

import os
import subprocess
import sys

import pytest

from foveal import ATTENTIONS
from helpers import GOLDEN, swept

FILES = sorted((GOLDEN / "addresses").glob("*.pt"))

# Each file in a child of its own that has imported torch and nothing of foveal.
LOAD = """
import os, sys
import torch, torch._dynamo  # a part of torch that much of what is loaded imports
torch.set_num_threads(1)
for file in sys.argv[1:]:
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        print(file, "ok" if status == 0 else "failed", flush=True)
        continue
    assert not [name for name in sys.modules if name.split(".")[0] in ("foveal", "ultralytics")]
    kept = torch.load(file, map_location="cpu", weights_only=False)
    module = kept["module" if "module" in kept else "model"].eval()
    with torch.no_grad():
        output = module(kept["input"])
    pairs = zip(*[x if isinstance(x, tuple) else (x,) for x in (output, kept["output"])])
    for found, wanted in pairs:
        torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(wanted), rtol=1e-4, atol=1e-5)
    sys.stdout.flush()
    os._exit(0)
"""

CHECKPOINT = """
import sys
import torch
if len(sys.argv) > 2:
    import foveal.yolo
from ultralytics import YOLO
model = YOLO(sys.argv[1]).model.eval()
kept = torch.load(sys.argv[1], weights_only=False)
with torch.no_grad():
    torch.testing.assert_close(model(kept["input"])[0], kept["output"], rtol=1e-4, atol=1e-4)
"""


def test_every_attention_and_part_is_among_them():
    names = {file.stem for file in FILES}
    assert {*ATTENTIONS, "identity_start", "batch_norm", "conv_norm", "ema_folded", "placebo_folded", "zero"} <= names
    assert {"normalise", "answer", "detector"} <= names


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_each_loads_in_a_fresh_process_and_computes_what_it_did(tmp_path):
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, FILES)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    failed = [line for line in done.stdout.splitlines() if not line.endswith(" ok")]
    assert not failed, done.stderr
    assert len(done.stdout.splitlines()) == len(FILES)


@pytest.mark.host
@pytest.mark.parametrize("restricted", swept(["0", "1"], "1"))
@pytest.mark.seldom
def test_a_checkpoint_loads_where_only_ultralytics_is_imported(restricted, tmp_path):
    """In restricted loading, which imports nothing that a file names, foveal is imported, too."""
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    imported = ["foveal"] if restricted == "1" else []
    command = [sys.executable, "-c", CHECKPOINT, str(GOLDEN / "addresses" / "detector.pt"), *imported]
    environment = os.environ | {"ULTRALYTICS_SAFE_LOAD": restricted}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
