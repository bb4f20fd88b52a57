"""Writes the page of the releases of Ultralytics that were run: python docs/releases.py > docs/releases.md."""

from foveal.hosts.ultralytics import NEWEST, OLDEST, RUN, numbers

WORDS = {"passed": "ok", "failed": "**fails**", "skipped": "no"}

HEAD = f"""# Releases

foveal supports the releases of Ultralytics from {OLDEST} to {NEWEST}. Continuous integration runs its tests with these
two. Those between are run on request, by the same tests: `make releases` installs each into a folder of its own, runs
the life of a model with it on drawn images ([tests/whole/test_life.py](../tests/whole/test_life.py)), and writes
[releases.json](../src/foveal/hosts/ultralytics/releases.json), of which this page is made. `.venv/bin/python
benchmarks/releases.py 8.4.100` adds a release. `foveal doctor` says whether the one in use is among these. A newer
release is tried, an older one refused.

"no" is what the release itself cannot do, with or without an attention; "refused" is an error that says so, and no
file.
"""


def main() -> None:
    """Print the page."""
    releases = sorted(RUN, key=numbers)
    found = {release: {step["step"]: step for step in RUN[release]["steps"]} for release in releases}
    notes: list[str] = []
    body = []
    for step in dict.fromkeys(name for release in releases for name in found[release]):
        cells = (cell(found[release].get(step), notes) for release in releases)
        body.append(f"| {step} | {' | '.join(cells)} |")
    print(HEAD)
    print(f"| step | {' | '.join(releases)} |")
    print(f"| --- |{' --- |' * len(releases)}")
    print("\n".join(body))
    print("\n" + "\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1)))
    for key, name in {"python": "Python", "torch": "PyTorch", "date": "Run on"}.items():
        values = {release: RUN[release][key] for release in releases}
        same = len(set(values.values())) == 1
        print(f"\n{name}: " + (values[OLDEST] if same else ", ".join(f"{value} ({r})" for r, value in values.items())))


def cell(step: dict[str, str] | None, notes: list[str]) -> str:
    """One step of one release, with the number of its note, which is added if it is new."""
    if step is None:
        return ""
    word = "refused" if step["said"].startswith("refused") else WORDS[step["state"]]
    if not step["said"]:
        return word
    note = step["said"].removeprefix("refused: ")
    if note not in notes:
        notes.append(note)
    return f"{word} ({notes.index(note) + 1})"


if __name__ == "__main__":
    main()
