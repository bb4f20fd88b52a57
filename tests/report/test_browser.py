"""The page in a real browser: on screens, on paper, and in the dark."""

import re
import shutil
import subprocess

import pytest

from foveal.report import page as report
from foveal.results import read as results_of
from reports import VARIANTS, check_numbers, classifiers, complete

SHOWN = ("complete", "half finished", "hostile", "classifiers")  # in English
SHOWN_IN_CHINESE = ("many arms", "rehearsal")


@pytest.fixture
def visit(browser, tmp_path):
    """A function that opens the page of some results; afterwards nothing was asked for and nothing complained about."""
    opened, requests, complaints = [], [], []

    def visit(results, language="en", width=1280):
        file = report.write(results_of(results), tmp_path, language)[0]
        page = browser.new_page(viewport={"width": width, "height": 800})
        opened.append((page, file.as_uri()))
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(file.as_uri())
        return page

    yield visit
    assert requests == [uri for _, uri in opened]
    assert complaints == []
    for page, _ in opened:
        page.close()


@pytest.mark.parametrize(
    ("variant", "language"),
    [
        *((variant, "en") for variant in SHOWN),
        *(pytest.param(variant, "en", marks=pytest.mark.sweep) for variant in VARIANTS if variant not in SHOWN),
        *((variant, "zh") for variant in SHOWN_IN_CHINESE),
        *(pytest.param(variant, "zh", marks=pytest.mark.sweep) for variant in ("complete", "hostile")),
    ],
)
def test_in_a_browser(visit, variant, language):
    results = VARIANTS[variant]()
    page = visit(results, language)
    numbers = page.eval_on_selector_all(
        "[data-path]", "all => all.map(e => [e.dataset.path, e.dataset.format, e.textContent])"
    )
    check_numbers(results, [tuple(number) for number in numbers])
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        beyond = """all => all.filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth + 1)
            .map(e => e.textContent)"""
        assert page.eval_on_selector_all("h1, h2, h3, p, li, figure, dd, pre, .chart text", beyond) == []


@pytest.mark.parametrize(("variant", "language"), [("complete", "zh"), ("many classes", "en")])
def test_on_paper(visit, variant, language, tmp_path):
    results = VARIANTS[variant]()
    page = visit(results, language)
    heading = page.inner_text("h1").split()
    (tmp_path / "report.pdf").write_bytes(source := page.pdf(prefer_css_page_size=True))
    assert len(re.findall(rb"/Type\s*/Page\b", source)) > 1
    if not shutil.which("pdftotext"):
        pytest.skip("no pdftotext to read the PDF with")
    command = ["pdftotext", "-raw", tmp_path / "report.pdf", "-"]
    text = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    plain = "".join(text.split())
    if language == "zh":  # without a Chinese font on this machine its letters are boxes
        heading, plain = (re.sub(r"[^\x00-\x7f−]", "", part) for part in ("".join(heading), plain))
    assert "".join(heading) in plain
    names = [row["name"].replace(" ", "") for row in results["arms"][2]["classes"]]
    assert all(name in plain for name in names)


def test_hundreds_of_classes_are_not_printed(visit):
    page = visit(classifiers(classes=tuple(f"class {i}" for i in range(1000))))
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(prefer_css_page_size=True))) < 10
    page.click("summary >> nth=0")
    assert page.locator("details td").first.is_visible()


def test_it_follows_the_reader_into_the_dark(visit):
    page = visit(complete())
    colours = "[getComputedStyle(document.documentElement).backgroundColor, getComputedStyle(document.body).color]"
    light = page.evaluate(colours)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(colours) != light
    page.emulate_media(color_scheme="dark", media="print")
    assert page.evaluate(colours) == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
