"""What the documents say is so."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from foveal.cli import app
from helpers import GOLDEN, in_fork, run, run_forked, swept

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
READMES = PAGES[:2]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", READMES, ids=lambda p: p.name)
def test_the_shown_command_prints_what_is_shown(page):
    (shown,) = blocks(page, "console")
    printed = (GOLDEN / "add.txt").read_text().replace(" (fresh weights: the source is a YAML)", "")
    assert shown == "$ foveal add yolo11n.pt ema --at neck\n" + printed.replace("x.yaml", "yolo11n-ema.pt")


def test_both_readmes_have_the_same_code():
    first, second = (re.sub(r" *#.*", "", "\n".join(blocks(page, "python"))) for page in READMES)
    assert first == second


@pytest.mark.parametrize("page", swept(READMES, "README.md", ids=lambda page: page.name))
def test_python_blocks_run(page, tmp_path):
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    code = "\n".join(blocks(page, "python"))
    assert "foveal.add(" in code
    in_fork(code, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_local_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_command_is_in_both_readmes():
    commands = [command.name or command.callback.__name__ for command in app.app.registered_commands]
    for page in READMES:
        assert all(
            f"foveal {command} " in page.read_text() or f"foveal {command}\n" in page.read_text()
            for command in commands
        )


def test_the_page_of_attentions_is_what_the_cards_say(tmp_path):
    printed = run_forked([sys.executable, str(ROOT / "docs" / "attentions.py")], tmp_path)
    assert printed == (ROOT / "docs" / "attentions.md").read_text(), "make docs writes it anew"


def test_the_page_of_releases_is_what_was_run(tmp_path):
    printed = run([sys.executable, str(ROOT / "docs" / "releases.py")], tmp_path)
    assert printed == (ROOT / "docs" / "releases.md").read_text(), "make docs writes it anew"


def test_what_begins_from_a_clone_stands_behind_the_first_picture():
    makefile = (ROOT / "Makefile").read_text()
    for page in READMES:
        text = page.read_text()
        (block,) = blocks(page, "sh")
        commands = re.findall(r"^make (\w+)", block, re.MULTILINE)
        assert commands == ["demo", "test"]
        assert all(f"\n{command}:" in makefile for command in commands)
        assert text.index("```console") < text.index("![") < text.index(block) < text.index("\n## ")
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text()


def test_workflows_call_what_is_there():
    makefile = (ROOT / "Makefile").read_text()
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    matrices = {name: job.get("strategy", {}).get("matrix", {}) for name, job in workflow["jobs"].items()}
    assert all(f"\n{target}:" in makefile for target in ("check", *matrices["linux"]["tests"]))
    oldest = re.search(r'requires-python = ">=(\d\.\d+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert matrices["linux"]["python"][0] == oldest
    (installed,) = [
        step["run"] for step in workflow["jobs"]["elsewhere"]["steps"] if "pip install" in step.get("run", "")
    ]
    extras = re.search(r"\[(.*?)\]", installed)[1].split(",")
    assert all(f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text() for extra in extras)


def test_forms_ask_for_what_the_doctor_says():
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/fault.yml").read_text())
    asked = {field["id"]: field for field in form["body"]}
    assert "foveal doctor" in asked["doctor"]["attributes"]["label"]
    assert asked["doctor"]["validations"]["required"]
