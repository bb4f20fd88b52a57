"""The local page in a real browser."""

import html
import json
import shutil
import time

import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
pytest.importorskip("starlette", reason="Starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")


from foveal.results import gates as study_gates
from foveal.study import Study
from foveal.study.cell import locked
from helpers import swept
from views import CLASSES, IMAGES, explained, progress


def until(page, condition: str) -> None:
    """Wait for it in here: in the page, its policy forbids Playwright to."""
    end = time.monotonic() + 10
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def chosen(page) -> str:
    return page.inner_text("#list [aria-current] span")


@pytest.mark.slow
def test_clicking_through_a_study(visit, small):
    page = visit(small)
    assert page.inner_text("#lead").startswith("ema@neck: equivalent within ±1.0 points.")
    assert page.inner_text("#summary") == "6 of 6 runs finished."
    assert page.locator("#runs tbody tr").count() == 3
    assert page.locator("#runs tbody td svg polyline").count() == 6
    assert page.inner_text("#count").startswith("6 images of val: ema@neck does better than the baseline on ")
    assert chosen(page) == "0000.png"
    captions = page.locator("figcaption").all_inner_texts()
    assert [caption.split()[0] for caption in captions] == ["baseline", "ema@neck"]
    assert page.locator("figure").nth(0).locator("rect.missed").count() > 0
    assert page.locator("figure").nth(1).locator("rect.missed").count() == 0
    assert page.locator("figure").nth(1).locator("rect.found").count() > 0
    # A confidence at which nothing is left.
    page.fill("#confidence", "0.95")
    assert page.locator("rect.found, rect.wrong").count() == 0
    assert page.inner_text("output") == "0.95"
    page.fill("#confidence", "0.25")
    page.uncheck("#truth")
    assert page.locator("rect.missed, rect.true").count() == 0
    page.check("#names")
    assert page.locator(".frame text").count() > 0
    # Another arm, seed and image.
    page.select_option("#seed", label="1")
    until(page, "document.querySelector('figcaption').textContent.includes('seed 1')")
    page.select_option("#arm", label="A/A")
    until(page, "document.querySelectorAll('figcaption')[1].textContent.startsWith('A/A')")
    assert "A/A has no attention" in page.inner_text(".maps")
    page.click("#list li:nth-child(3) button")
    until(page, "document.querySelector('#list li:nth-child(3) button').hasAttribute('aria-current')")
    page.click("text=The whole report")
    page.wait_for_url("**/report.html")
    assert page.locator("h1").inner_text().startswith("ema@neck")
    assert page.evaluate("getComputedStyle(document.querySelector('main')).maxWidth") != "none"  # its style is applied


@pytest.mark.slow
def test_keys_and_the_focus(visit, small):
    explained(study_gates.gates_folder(small, "ema@neck"), [f"{index:04}.png" for index in range(IMAGES)])
    page = visit(small)
    names = page.locator("#list button span:first-child").all_inner_texts()
    pressed = ("j", "ArrowDown", "ArrowRight", "k", "ArrowUp", "ArrowLeft", "k")
    for key, place in zip(pressed, (1, 2, 3, 2, 1, 0, 0), strict=True):
        page.keyboard.press(key)
        until(page, f"document.querySelector('#title').textContent.startsWith({json.dumps(names[place])})")
        assert chosen(page) == names[place]
    page.keyboard.press("a")
    assert [text.split()[0] for text in page.locator("figcaption").all_inner_texts()] == ["baseline"]
    page.keyboard.press("b")
    assert [text.split()[0] for text in page.locator("figcaption").all_inner_texts()] == ["ema@neck"]
    page.keyboard.press("b")
    assert page.locator("figure").count() == 2
    page.keyboard.press("s")
    until(page, "document.querySelector('figcaption').textContent.includes('seed 1')")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("j")  # not while the keys are read
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()
    assert chosen(page) == names[0]
    # Gates: g one after the other, then none; hover; focus.
    page.keyboard.press("g")
    assert page.locator(".frame .map").get_attribute("alt") == "spatial, ema in row 16, C3k2"
    assert "mean0.510" in page.inner_text(".numbers").replace("\n", "").replace(" ", "")
    for _ in range(4):
        page.keyboard.press("g")
    assert page.locator(".frame .map").count() == 0
    page.hover("figure:last-child .frame")
    assert page.locator(".frame .map").count() == 1
    page.hover("h1")
    assert page.locator(".frame .map").count() == 0
    page.focus("[data-map='1']")
    page.wait_for_selector(".frame .map.apart")  # bars are not laid over the photograph
    page.keyboard.press("Enter")
    assert page.get_attribute("[data-map='1']", "aria-pressed") == "true"
    # Tab reaches every control in order, and what has the focus can be seen.
    page.evaluate("document.activeElement.blur()")
    page.focus("#arm")
    page.keyboard.press("ArrowDown")  # changes the arm, not the image
    until(page, "document.querySelectorAll('figcaption')[1].textContent.startsWith('A/A')")
    seen = []
    for _ in range(6):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", seen
    assert seen == ["seed", "confidence", "truth", "names", "help", "BUTTON"]


@pytest.mark.slow
@pytest.mark.parametrize("width", swept([390, 1280], "390"))
def test_clicking_through_a_study_of_classifiers(visit, classified, width):
    labels = [str(classified / f"data/val/{label}/0.png") for label in CLASSES]
    explained(study_gates.gates_folder(classified, "ema@backbone"), labels)
    page = visit(classified, width=width)
    assert page.inner_text("#measure").startswith("The lines are top-1 accuracy by epoch")
    assert page.locator("#runs tbody td .state").all_inner_texts() == ["0.800"] * 6
    assert "By whether the first answer is right, averaged over 2 seeds" in page.inner_text("#count")
    assert page.inner_text("#title") == "apple/0.png: +1.00"
    assert page.inner_text("#class") == "True class: apple"
    captions = page.locator("figcaption span").all_inner_texts()
    assert captions == ["wrong, the true class is not among the first 5; with seed 0", "right; with seed 0"]
    assert page.locator("figure:last-child .answers li").all_inner_texts()[0] == "apple true class"
    assert page.locator(".answers li").count() == 10
    assert page.locator(".answers .right").count() == 1
    page.keyboard.press("j")
    until(page, "document.querySelector('#title').textContent === 'fig/0.png: +0.50'")
    page.keyboard.press("s")
    until(page, "document.querySelector('figcaption span').textContent.endsWith('with seed 1')")
    captions = page.locator("figcaption span").all_inner_texts()
    assert captions == ["wrong, the true class is answer 3; with seed 1"] * 2
    for key in ("t", "n"):  # there are no boxes
        page.keyboard.press(key)
    page.keyboard.press("g")
    until(page, "document.querySelector('.frame .map').naturalWidth === 96")
    page.keyboard.press("a")
    assert page.locator("figure").count() == 1
    assert page.locator("#tools input, .legend, .frame svg").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.slow
def test_an_explained_classifier_has_answers_instead_of_boxes(visit, tmp_path):
    manifest = explained(tmp_path / "one", ["a.jpg"], task="classify")
    given = [{"label": "<i>apple", "confidence": 0.75}, {"label": "pear", "confidence": 0.125}]
    manifest["images"][0] |= {"classes": given, "boxes": [], "true_boxes": None}
    (tmp_path / "one/manifest.json").write_text(json.dumps(manifest))
    page = visit(tmp_path / "one")
    assert page.locator(".answers li").all_inner_texts() == ["<i>apple 0.75", "pear 0.13"]
    assert page.locator("#tools input, .legend, .frame svg").count() == 0
    page.keyboard.press("g")
    until(page, "document.querySelector('.frame .map').naturalWidth === 96")


@pytest.mark.slow
def test_a_study_under_way_goes_on_without_a_reload(visit, small):
    study = Study(small)
    cell = study.cells[-1]
    kept = small.parent / "kept"
    shutil.move(study.path(cell), kept)
    progress(study, cell, [0.1])
    with locked(study.path(cell)):
        page = visit(small)
        assert page.inner_text("#summary") == "5 of 6 runs finished: 1 running, about 45 s left."
        assert page.inner_text("td.running .state") == "running 1/4"
        assert page.inner_text("#lead").startswith("So far: ema@neck: equivalent within ±1.0 points.")
        page.evaluate("window.kept = true")
        progress(study, cell, [0.1, 0.2, 0.3])
        until(page, "document.querySelector('td.running .state').textContent === 'running 3/4'")
        assert page.get_attribute("td.running svg", "aria-label") == "mAP50-95 after 3 epochs: 0.300"
    shutil.rmtree(study.path(cell))
    shutil.move(kept, study.path(cell))
    until(page, "document.querySelector('#summary').textContent === '6 of 6 runs finished.'")
    assert page.evaluate("window.kept")


@pytest.mark.slow
@pytest.mark.parametrize("width", swept([390, 1280], "390"))
def test_an_explained_folder_with_evil_names_on_a_narrow_and_a_wide_screen(visit, tmp_path, width):
    evil = "<img src=x onerror=alert(1)>.jpg"
    folder = tmp_path / "explained <b>"
    explained(folder, [evil, "b" * 200 + ".jpg"], model="<script>alert(1)</script>")
    page = visit(folder, width=width, color_scheme="dark")
    assert page.inner_text("h1") == "explained <b>"
    assert html.escape(evil) in page.inner_html("#list")
    assert page.inner_text("#lead") == "Gates of <script>alert(1)</script>."
    assert page.locator("#ablation td").all_inner_texts() == ["0.4000", "0.3900", "0.3100"]
    assert page.locator(".maps button").count() == 4
    page.focus("[data-map='0']")
    until(page, "document.querySelector('.frame .map').naturalWidth === 96")
    frame, box = (page.locator(name).first.bounding_box() for name in (".frame", ".frame rect.found"))
    assert box["x"] - frame["x"] == pytest.approx(frame["width"] * 10 / 192, abs=2)
    page.keyboard.press("j")
    until(page, "document.querySelector('#title').textContent.startsWith('bbb')")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(21, 24, 27)"
