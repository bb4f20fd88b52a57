"""Exports every attention to every format that can be run here, and compares.

python benchmarks/matrix.py WEIGHTS.pt

WEIGHTS are those of a trained yolo11n. Each attention is put at its neck, with parameters drawn anew and the gains of
its identity start between 0.2 and 0.8, because a fresh one has none and is left out of the file. Results are kept in
benchmarks/results/export.json after every attention, and only what is missing there is run; docs/export.py makes the
tables.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import torch

import foveal
from foveal import ATTENTIONS, IdentityStart
from foveal.bench.timing import environment
from foveal.deploy import export
from foveal.files import write_whole
from foveal.hosts import ultralytics as host

RESULTS = Path(__file__).parent / "results" / "export.json"
SIZE = 160
SPECS = {"sa": "sa(groups=8)"}  # whose default does not fit 64 channels
MODES = {
    "onnx": ({}, {"dynamic": True}, {"half": True}),
    "openvino": ({}, {"dynamic": True}, {"half": True}),
    "torchscript": ({}, {"dynamic": True}),
    "ncnn": ({}, {"half": True}),
    "mnn": ({}, {"half": True}),
}


def attended(weights: Path, name: str, target: Path, at: str = "neck") -> Path:
    """A file with the attention, and numbers in it that make a difference."""
    torch.manual_seed(0)
    foveal.add(weights, SPECS.get(name, name), at=at, output=target, force=True)
    model = host.load(target)
    generator = torch.Generator().manual_seed(0)

    def draw(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    with torch.no_grad():
        for start in model.model.modules():
            if isinstance(start, IdentityStart):
                draw(start.gain, 0.2, 0.8)
                for parameter in start.attention.parameters():
                    if parameter.dim() < 2:  # biases and norms, whose zeros and ones hide what multiplies them
                        parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
                for key, buffer in start.attention.named_buffers():
                    if key.endswith("running_mean"):
                        draw(buffer, -0.3, 0.3)
                    elif key.endswith("running_var"):
                        draw(buffer, 0.5, 1.5)
    write_whole(target, lambda path: torch.save(host.checkpoint(model.model, model.ckpt), path))
    return target


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--anew", action="store_true", help="forget what is there")
    given = parser.parse_args()
    earlier = json.loads(RESULTS.read_text()) if RESULTS.exists() and not given.anew else {}
    kept = earlier.get("rows", [])
    done, versions = {(row["attention"], row["format"], row["mode"]) for row in kept}, {}
    for name in ATTENTIONS:
        missing = [(form, mode) for form, modes in MODES.items() for mode in modes]
        missing = [(form, mode) for form, mode in missing if (name, form, word(mode)) not in done]
        with tempfile.TemporaryDirectory() as folder:
            file = attended(given.weights, name, Path(folder) / "model.pt") if missing else None
            for form, mode in missing:
                found = export(file, format=form, imgsz=SIZE, device="cpu", **mode)
                versions |= found.versions
                row = {"attention": name, "format": form, "mode": word(mode), "wrong": found.wrong}
                row["cases"] = [dataclasses.asdict(case) for case in found.cases]
                row["effect"] = dataclasses.asdict(found.effect) if found.effect else None
                row["plain"] = {str(exact): dataclasses.asdict(apart) for exact, apart in found.plain.items()}
                kept.append(row)
                print(name, form, row["mode"], found.wrong or "agrees", flush=True)
        kept.sort(key=lambda row: [*ATTENTIONS].index(row["attention"]))
        report = {"size": SIZE, "environment": environment(torch.device("cpu"))}
        report |= {"versions": {**earlier.get("versions", {}), **versions}, "rows": kept}
        write_whole(RESULTS, lambda part, report=report: part.write_text(json.dumps(report, indent=1)))


def word(mode: dict[str, bool]) -> str:
    """A mode's name."""
    return next(iter(mode), "static")


if __name__ == "__main__":
    main()
