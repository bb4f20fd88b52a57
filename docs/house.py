"""Draws docs/house.svg, the wings and who takes from whom, from the imports: python docs/house.py.

Each row is a rung of the ladder in tests/whole/test_house.py. A line leads to a wing that names are taken from; one
that follows from other lines is left out, and so is what every wing takes: errors, files and tensors.
"""

import ast
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE, PICTURE = ROOT / "src" / "foveal", ROOT / "docs" / "house.svg"
ROWS = [
    ["cli"],
    ["view"],
    ["report", "audit"],
    ["results"],
    ["study"],
    ["contract"],
    ["deploy"],
    ["convert", "explain", "bench", "judging"],
    ["hosts"],
    ["surgery"],
    ["attention", "evidence"],
    ["verdict", "pages", "kernels", "executors", "checkpoints"],
]
WIDTH, HEIGHT, BOX, GAP = 860, 64, (132, 34), 24


def taken() -> dict[str, set[str]]:
    """The wings that each wing takes names from."""
    wings = {wing for row in ROWS for wing in row}
    found: dict[str, set[str]] = {wing: set() for wing in wings}
    for path in SOURCE.rglob("*.py"):
        here = path.relative_to(SOURCE).parent.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if here and isinstance(node, ast.ImportFrom) and node.level:
                home = (*here[: len(here) - node.level + 1], *(node.module or "").split("."))
                names = {part for part in home if part} & wings or {alias.name for alias in node.names} & wings
                found[here[0]] |= names if not home[0] else {home[0]} & wings
    return {wing: to - {wing} for wing, to in found.items()}


def drawn() -> dict[str, set[str]]:
    """The same without what follows from the rest: who takes from `study` stands above all that `study` takes from."""
    direct = taken()

    def below(wing: str) -> set[str]:
        return direct[wing].union(*(below(other) for other in direct[wing]))

    return {wing: to - set().union(*(below(other) for other in to)) for wing, to in direct.items()}


def svg() -> str:
    """The picture."""
    places = {}
    for row, wings in enumerate(ROWS):
        left = (WIDTH - len(wings) * BOX[0] - (len(wings) - 1) * GAP) / 2
        places |= {wing: (left + column * (BOX[0] + GAP), 12 + row * HEIGHT) for column, wing in enumerate(wings)}
    lines = []
    for wing, below in sorted(drawn().items()):
        x, y = places[wing]
        for other in sorted(below):
            to, down = places[other]
            start, end = x + BOX[0] / 2, to + BOX[0] / 2
            lines.append(
                f'<path d="M{start:g} {y + BOX[1]} C{start:g} {y + HEIGHT} {end:g} {down - 30} {end:g} {down}"/>'
            )
    boxes = [
        f'<g><rect x="{x:g}" y="{y:g}" width="{BOX[0]}" height="{BOX[1]}" rx="5"/>'
        f'<text x="{x + BOX[0] / 2:g}" y="{y + 22:g}">{escape(wing)}</text></g>'
        for wing, (x, y) in places.items()
    ]
    style = (
        "svg{background:#fff}path{fill:none;stroke:#8a94a6;stroke-width:1}rect{fill:#f3f6fb;stroke:#3b5b92}"
        "text{font:14px system-ui,sans-serif;text-anchor:middle;fill:#1c2733}"
    )
    size = f'viewBox="0 0 {WIDTH} {len(ROWS) * HEIGHT}" width="{WIDTH}" role="img"'
    title = "<title>The wings of foveal; each takes names only from those below it</title>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{title}<style>{style}</style>'
    return "\n".join([head, *lines, *boxes, "</svg>"]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(svg())
