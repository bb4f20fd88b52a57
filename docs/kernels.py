"""Writes the tables of measured times into the pages, and draws docs/kernels.svg: python docs/kernels.py.

What is measured lies in benchmarks/results as `foveal bench -o` left it: cpu.json, rivals.json (on the CPU, with
--rivals) and models.json; as `benchmarks/gpu.py` left it: gpu.json; what is counted, as `benchmarks/gpu_compiled.py`
left it: gpu_compiled.json, of which expected.py makes what is expected. A section stands between `<!-- begin NAME -->`
and `<!-- end NAME -->`, NAME being one of these, `expected`, or `speed`, the short table of the READMEs.
"""

import json
import math
import re
import runpy
from collections.abc import Iterable, Mapping
from pathlib import Path

from foveal.bench.shapes import name
from foveal.kernels.ema.cuda_tuned import ON_CHIP

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PICTURE = ROOT / "docs" / "kernels.svg"
PAGES = [ROOT / "docs" / "kernels.md", ROOT / "README.md", ROOT / "README.zh-CN.md"]
MODES = {"forward": "Forward pass", "train": "Training step"}
SHORT = {  # heads of the short table, and its words, by language
    "en": ("EMA on a CPU, times as fast as the article's code", "forward pass", "training step", "at least {}"),
    "zh": ("EMA 在 CPU 上相对文章代码的加速倍数", "前向", "训练步", "最低 {}"),
}
OWN = ("gpu", "gpu_compiled")  # which `foveal bench` did not write
NOT_YET = {"en": "Not measured yet.", "zh": "尚未测量。"}

Rows = list[Mapping]


def load(folder: Path) -> dict[str, Mapping]:
    """The reports by file name, those of other schemas and of other things left out."""
    reports = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return {stem: report for stem, report in reports.items() if stem in OWN or report.get("schema") == 1}


def filled(text: str, sections: Mapping[str, str]) -> str:
    """The page with what stands between its marks replaced.

    Raises:
        ValueError: a mark without its end, or of a section that there is not.
    """
    for section in re.findall(r"<!-- begin (\w+) -->", text):
        begin, end = f"<!-- begin {section} -->", f"<!-- end {section} -->"
        head, _, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not closed or section not in sections:
            raise ValueError(f"cannot fill {begin} ... {end}")
        text = f"{head}{begin}\n{sections[section]}\n{end}{tail}"
    return text


def sections(reports: Mapping[str, Mapping], language: str) -> dict[str, str]:
    """Every section by name."""
    return {
        "cpu": modules(reports["cpu"]) if "cpu" in reports else NOT_YET[language],
        "gpu": gpu(reports["gpu"]["parts"]) if "gpu" in reports else "Not measured on a GPU yet.",
        "gpu_compiled": compiled(reports["gpu_compiled"]) if "gpu_compiled" in reports else NOT_YET[language],
        "expected": expected(reports["gpu_compiled"]) if "gpu_compiled" in reports else NOT_YET[language],
        "rivals": modules(reports["rivals"]) if "rivals" in reports else NOT_YET[language],
        "models": models(reports["models"]) if "models" in reports else NOT_YET[language],
        "speed": short(reports["cpu"], language) if "cpu" in reports else NOT_YET[language],
    }


def modules(report: Mapping) -> str:
    """A table for each pass, dtype and layout: how many times as fast as the article's formulation."""
    parts = [conditions(report)]
    for (mode, dtype, layout), rows in grouped(report["rows"], "mode", "dtype", "layout").items():
        names = [n for n in dict.fromkeys(row["contender"] for row in rows) if n not in ("article", "reference")]
        heads = ["input", "B", "x, MB", "article, ms", *(f"`{n}`" for n in names)]
        counted = "kernel" in names
        heads += ["kernel / copying"] * counted
        heads += ["article keeps", *["kernel keeps"] * counted] if mode == "train" else []
        body = []
        for (shape, batch), case in grouped(rows, "shape", "batch").items():
            by_name = {row["contender"]: row for row in case}
            article, kernel = by_name["article"], by_name.get("kernel", {})
            where = f"{name(shape)} {'x'.join(map(str, shape))}".strip()
            cells = [where, str(batch), f"{article['input_bytes'] / 1e6:.2f}", number(article["milliseconds"])]
            cells += [ratio(by_name[n]) if n in by_name else "" for n in names]
            if counted:
                cells.append(f"{100 * kernel['copy_share'][1]:.0f} %" if kernel.get("copy_share") else "")
            if mode == "train":
                cells += [kept(row) for row in (article, kernel)[: 1 + counted]]
            body.append(cells)
        means = ["geometric mean", "", "", ""]
        means += [mean(row for row in rows if row["contender"] == n) for n in names]
        body.append(means + [""] * (len(heads) - len(means)))
        parts.append(f"**{MODES[mode]}**, {dtype}, {layout}:\n\n{table(heads, body)}")
    return "\n\n".join(parts)


def gpu(parts: Mapping) -> str:
    """The tables that a machine with a GPU found, and how each part of its run ended."""
    environment, rows = parts["card"]["result"], parts["tables"]["result"]["rows"]
    ends = [f"`{part}`: {done['state'].splitlines()[-1]}" for part, done in parts.items()]
    return f"{modules({'environment': environment, 'rows': rows})}\n\nThe parts of this run: {', '.join(ends)}."


def compiled(report: Mapping) -> str:
    """Registers and spills by GPU, and what a launch of YOLO11x's P4 in 16 bits moves and carries out."""
    heads = ["kernel", "registers sm_80", "sm_90", "sm_100", "spilled, B", "bytes / x", "instructions a value"]
    body = []
    for (kernel,), rows in grouped(report["rows"], "kernel").items():
        used = [[row["registers"] for row in rows if row["capability"] == c] for c in (80, 90, 100)]
        cells = [f"{min(of)} to {max(of)}" for of in used]
        sixteen = [
            row for row in rows if (row["dtype"], row["layout"], row["capability"]) == ("bfloat16", "contiguous", 90)
        ]
        values = [report["batch"] * math.prod(row["shape"]) for row in sixteen]
        moves = [row["bytes"] / (2 * n) for row, n in zip(sixteen, values, strict=True)]
        counts = [32 * row["instructions"] * row["warps"] * row["programs"] for row in sixteen]
        each = [count / n for count, n in zip(counts, values, strict=True)]
        cells += [str(max(row["spilled"] for row in rows)), f"{min(moves):.1f} to {max(moves):.1f}"]
        # Loops of the one launch lie in each other, so their instructions are not counted.
        body.append([f"`{kernel}`", *cells, "" if kernel == "single" else f"{min(each):.0f} to {max(each):.0f}"])
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return f"Compiled by {versions}; YOLO11 n and x, P3 to P5, {report['batch']} images.\n\n{table(heads, body)}"


def expected(report: Mapping) -> str:
    """A table for each pass and dtype, like those of what is measured."""
    cases = runpy.run_path(str(ROOT / "docs" / "expected.py"))["cases"](report, ON_CHIP)
    heads = ["input", "B", "x, MB", "article, ms", "`fast`", "`kernel`", "kernel / copying"]
    parts = []
    for (mode, dtype), rows in grouped(cases, "mode", "dtype").items():
        body = []
        for row in rows:
            where = f"{name(row['shape'])} {'x'.join(map(str, row['shape']))}"
            cells = [where, str(row["batch"]), f"{row['size'] / 1e6:.2f}", f"{1000 * row['article']:.3g}"]
            body.append([*cells, times(row["fast"]), times(row["kernel"]), f"{100 * row['copying']:.0f} %"])
        parts.append(f"Prediction, **{MODES[mode].lower()}**, {dtype}, contiguous:\n\n{table(heads, body)}")
    return "\n\n".join(parts)


def models(report: Mapping) -> str:
    """What the attention adds to whole models."""
    heads = ["model", "attention", "pass", "images", "plain, ms", "contender", "added, %", "resolution, points"]
    body = []
    for case in grouped(report["models"], "model", "attention", "mode", "batch", "dtype").values():
        plain = next(row for row in case if row["contender"] == "plain")
        for row in case:
            if row["contender"] == "plain":
                continue
            start = [row["model"], f"`{row['attention']}`", MODES[row["mode"]].lower(), str(row["batch"])]
            start += [number(plain["milliseconds"]), row["contender"]]
            if row["added"] is None:
                body.append([*start, f"not run: {row['why_not']}", ""])
            else:
                low, median, high = (f"{value:+.1f}" for value in row["added"])
                body.append([*start, f"{median} ({low} to {high})", f"{row['resolution']:.1f}"])
    return f"{conditions(report)}\n\n{table(heads, body)}"


def short(report: Mapping, language: str) -> str:
    """Geometric means and the least, over all shapes and batches of the first dtype, contiguous."""
    title, forward, train, least = SHORT[language]
    body = []
    for contender in ("fast", "kernel"):
        cells = [f"`{contender}`"]
        for mode in MODES:
            rows = [r for r in plain_rows(report, mode) if r["contender"] == contender and r["speedup"]]
            found = [row["speedup"][1] for row in rows]
            cells.append(f"{mean(rows)} ({least.format(f'{min(found):.1f}')})" if found else "")
        if any(cells[1:]):
            body.append(cells)
    return table([title, forward, train], body)


def conditions(report: Mapping) -> str:
    """The line above the tables."""
    where = report["environment"]
    machine = where["gpu"] or f"{where['cpu']}, threads: {where['threads']}"
    return f"{machine}; torch {where['torch']}; {where['date']}; foveal {where['foveal']} ({where['commit']})."


def plain_rows(report: Mapping, mode: str) -> Rows:
    """Rows of one pass, contiguous and of the first dtype."""
    dtype = report["settings"]["dtype"][0]
    return [r for r in report["rows"] if (r["mode"], r["layout"], r["dtype"]) == (mode, "contiguous", dtype)]


def grouped(rows: Iterable[Mapping], *keys: str) -> dict[tuple, Rows]:
    """Rows by the values of some keys, in the order met."""
    groups: dict[tuple, Rows] = {}
    for row in rows:
        values = (tuple(row[key]) if isinstance(row[key], list) else row[key] for key in keys)
        groups.setdefault(tuple(values), []).append(row)
    return groups


def mean(rows: Iterable[Mapping]) -> str:
    """Geometric mean of the speed-ups; those refused are left out, and counted."""
    timed = [row for row in rows if row["milliseconds"]]
    found = [row["speedup"][1] for row in timed if row["speedup"]]
    if not found:
        return ""
    words = times(math.exp(sum(map(math.log, found)) / len(found)))
    return words if len(found) == len(timed) else f"{words}, {len(timed) - len(found)} refused"


def times(value: float) -> str:
    """A ratio, to a tenth, or to a hundredth where that would be nothing."""
    return f"{value:.1f}" if value >= 0.5 else f"{value:.2f}"


def ratio(row: Mapping) -> str:
    """A speed-up with its quartiles."""
    if row["speedup"]:
        low, median, high = map(times, row["speedup"])
        return f"{median} ({low} to {high})"
    return "noise" if row["milliseconds"] else "not run" if row["why_not"] else "wrong"


def kept(row: Mapping) -> str:
    """What is saved for the backward pass, in units of the input."""
    return f"{row['saved_bytes'] / row['input_bytes']:.2f}" if row.get("saved_bytes") is not None else ""


def number(spread: list[float] | None) -> str:
    """The median, to three digits."""
    return f"{spread[1]:.3g}" if spread and spread[1] < 1000 else f"{spread[1]:.0f}" if spread else ""


def table(heads: list[str], body: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *body))


def draw(report: Mapping, target: Path) -> None:
    """Bytes that must move per second against the size of x, beside copying it."""
    import matplotlib
    from matplotlib import pyplot

    matplotlib.rcParams |= {"svg.hashsalt": "foveal", "font.size": 9}
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, (mode, title) in zip(axes, MODES.items(), strict=True):
        groups = grouped((row for row in plain_rows(report, mode) if row["milliseconds"]), "contender")
        copied = {}
        for (contender,), rows in groups.items():
            points = sorted((r["input_bytes"] / 1e6, r["least_bytes"] / r["milliseconds"][1] / 1e6) for r in rows)
            axis.plot(*zip(*points, strict=True), "o-", markersize=3, linewidth=1, label=contender)
            copied |= {r["input_bytes"] / 1e6: r["copy_rate"] / 1e9 for r in rows}
        copied = sorted(copied.items())
        axis.plot(*zip(*copied, strict=True), "k--", linewidth=1, label="copying x")
        axis.set(title=title, xscale="log", yscale="log", xlabel="x, MB")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("bytes that must move, GB/s")
    axes[1].legend(frameon=False, fontsize=8)
    figure.savefig(target, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Fill the pages and draw the picture."""
    reports = load(RESULTS)
    for page in PAGES:
        page.write_text(filled(page.read_text(), sections(reports, "zh" if "zh" in page.name else "en")))
    if "cpu" in reports:
        draw(reports["cpu"], PICTURE)


if __name__ == "__main__":
    main()
