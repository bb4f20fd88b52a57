"""Writes the tables of docs/export.md from benchmarks/results: python docs/export.py.

export.json comes from benchmarks/matrix.py, deployed.json from benchmarks/deployed.py.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kernels import NOT_YET, RESULTS, filled

PAGE = Path(__file__).with_name("export.md")
FULL = ("onnx static", "onnx dynamic", "openvino static", "openvino dynamic", "torchscript static",
        "torchscript dynamic", "ncnn static")  # fmt: skip
RUNTIMES = {"onnx": "ONNX Runtime", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
ROUNDED = ("onnx half", "openvino half", "openvino default", "ncnn half", "mnn static", "mnn half")


def table(heads: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [heads, ["---"] * len(heads), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_attention(report: Mapping) -> dict[str, dict[str, Mapping]]:
    """Rows by attention and then by format and mode."""
    found: dict[str, dict[str, Mapping]] = {}
    for row in report["rows"]:
        found.setdefault(row["attention"], {})[f"{row['format']} {row['mode']}"] = row
    return found


def largest(row: Mapping) -> str:
    """Over all cases that ran in full precision."""
    if row["wrong"]:
        return "**no**"
    return f"{max(case['differences']['boxes']['largest'] for case in row['cases'] if case['exact']):.0e}"


def rms(row: Mapping, exact: bool) -> str:
    """That of the model, and in brackets that of the same model without attention."""
    if row["wrong"]:
        return "**no**"
    ours = max(case["differences"]["boxes"]["rms"] for case in row["cases"] if case["exact"] == exact)
    plain = row["plain"].get(str(exact))
    return f"{ours:.1g} ({plain['boxes']['rms']:.1g})" if plain else f"{ours:.1g}"


def broken(report: Mapping) -> str:
    """What the command says of each attention and format that fails, once for all modes."""
    said = {(row["attention"], row["format"]): row["wrong"] for row in reversed(report["rows"]) if row["wrong"]}
    lines = [f"- `{name}` to {form}: {why}" for (name, form), why in sorted(said.items(), key=lambda item: item[0][1])]
    return "\n".join(lines) or "Nothing fails."


def full(report: Mapping) -> str:
    """Formats that keep full precision."""
    body = [
        [f"`{name}`", *(largest(rows[key]) if key in rows else "" for key in FULL)]
        for name, rows in by_attention(report).items()
    ]
    return table(["attention", *FULL], body)


def rounded(report: Mapping) -> str:
    """Formats that round."""
    body = []
    for name, rows in by_attention(report).items():
        rows = {**rows, "openvino default": rows.get("openvino dynamic")}
        cells = [rms(rows[key], key != "openvino default") if rows.get(key) else "" for key in ROUNDED]
        body.append([f"`{name}`", *cells])
    return table(["attention", *ROUNDED], body)


def conditions(report: Mapping) -> str:
    """Versions and machine."""
    said = report["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in report.get("versions", {}).items())
    machine = f"{said['cpu']}, {said['threads']} thread{'s' if said['threads'] > 1 else ''}, {said['date']}"
    return f"{versions + '; ' if versions else ''}{machine}."


def added(quartiles: Sequence[float]) -> str:
    """Percent with quartiles."""
    low, median, high = quartiles
    return f"{median:+.1f} ({low:+.1f} to {high:+.1f})"


def latency(report: Mapping) -> str:
    """What EMA adds to a file of each kind, as Ultralytics writes it and as foveal does."""
    body = []
    for row in report["rows"]:
        if (row["attention"], row["place"]) == ("ema", "neck"):
            precision = f"{row['bits']} bits{', run as it likes' if row['precision'] == 'default' else ''}"
            cells = [RUNTIMES[row["runtime"]], precision, f"{row['threads']}", f"{row['plain'][1]:.1f}"]
            body.append([*cells, added(row["stock"]), added(row["deployed"]), f"{row['load']:.0f}"])
    heads = ["runtime", "file", "threads", "without, ms", "before, %", "now, %", "load"]
    where = report["environment"]
    versions = ", ".join(f"{RUNTIMES.get(name, name)} {version}" for name, version in report["versions"].items())
    said = (
        f"{versions}; {where['cpu']} with {where['cores']} cores, {where['date']}; medians and quartiles within rounds."
    )
    return f"{said}\n\n{table(heads, body)}"


def places(report: Mapping) -> str:
    """What every attention adds at its card's place."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in report["rows"]:
        if (row["threads"], row["bits"], row["precision"]) == (1, 32, "fp32"):
            found.setdefault((row["attention"], row["place"]), {})[row["runtime"]] = added(row["deployed"])
    body = [[f"`{name}`", f"`{place}`", *(cells[key] for key in ("onnx", "openvino"))]
            for (name, place), cells in found.items()]  # fmt: skip
    return table(["attention", "place", "ONNX Runtime, %", "OpenVINO, %"], body)


def sections() -> dict[str, str]:
    """Every section by name."""
    found = {}
    for name in ("export", "deployed"):
        file = RESULTS / f"{name}.json"
        found[name] = json.loads(file.read_text()) if file.exists() else None
    matrix, times = found["export"], found["deployed"]
    return {
        "conditions": conditions(matrix) if matrix else NOT_YET["en"],
        "full": full(matrix) if matrix else NOT_YET["en"],
        "rounded": rounded(matrix) if matrix else NOT_YET["en"],
        "broken": broken(matrix) if matrix else NOT_YET["en"],
        "latency": latency(times) if times else NOT_YET["en"],
        "places": places(times) if times else NOT_YET["en"],
    }


def main() -> None:
    """Fill the page."""
    PAGE.write_text(filled(PAGE.read_text(), sections()))


if __name__ == "__main__":
    main()
