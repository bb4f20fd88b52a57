"""Ultralytics, kept from the network and from the user's settings, and the real data where it exists."""

import atexit
import gc
import importlib.util
import os
import shutil
import signal
import tempfile
from pathlib import Path

import hypothesis
import pytest

from data import SHARED, unpack_cifar100

# A busy machine is no failure, and a failing example must come back in the next run.
hypothesis.settings.register_profile("foveal", deadline=None, derandomize=True)
hypothesis.settings.register_profile("sweep", deadline=None, derandomize=True, max_examples=300)

CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
CHROMIUM += ["--disable-sync", "--no-first-run"]


def _isolate_ultralytics() -> None:
    # Before its first import, which reads these; child processes inherit them.
    home = Path(tempfile.mkdtemp(prefix="foveal-tests-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    (home / "Ultralytics").mkdir()
    os.environ |= {"YOLO_CONFIG_DIR": str(home), "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0"}
    if spec := importlib.util.find_spec("matplotlib"):
        # Any font under this name keeps training from looking for one on the network.
        fonts = Path(spec.submodule_search_locations[0]) / "mpl-data/fonts/ttf"
        shutil.copy(fonts / "DejaVuSans.ttf", home / "Ultralytics/Arial.ttf")


_isolate_ultralytics()


def pytest_addoption(parser):
    parser.addoption("--sweep", action="store_true", help="also all members of long lists of which the suite takes one")


def pytest_configure(config):
    # Whatever a shell starts behind itself has Ctrl-C ignored, and so have all its children; tests send it to some.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hypothesis.settings.load_profile("sweep" if config.getoption("--sweep") else "foveal")


def pytest_ignore_collect(collection_path, config):
    # Against the oldest host most modules have nothing to run, and an import of each takes longer than what is run.
    if config.option.markexpr.startswith("host") and collection_path.name.startswith("test_"):
        return True if "pytest.mark.host" not in collection_path.read_text(encoding="utf-8") else None
    return None


def pytest_collection_finish():
    # Torch, Ultralytics and some thousand tests stay to the end; looking through them again takes a tenth of all time.
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()  # or extensions say at the end that something was never freed


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--sweep"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("sweep")])
        items[:] = [item for item in items if not item.get_closest_marker("sweep")]


@pytest.fixture
def own_folder(tmp_path, monkeypatch) -> None:
    """Makes an empty folder the current one."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def weights() -> Path:
    """Trained YOLO11n weights."""
    path = SHARED / "weights/yolo11n_from_int8.pt"
    if not path.exists():
        pytest.skip(f"no YOLO11n weights at {path}")
    return path


@pytest.fixture(scope="session")
def bccd(tmp_path_factory) -> Path:
    """The data file of a copy of BCCD, because training writes caches beside the labels."""
    if not (SHARED / "bccd").is_dir():
        pytest.skip(f"no BCCD images at {SHARED / 'bccd'}")
    root = tmp_path_factory.mktemp("bccd")
    for part in ("images", "labels"):
        for source in (SHARED / "bccd" / part).rglob("*.*"):
            target = root / part / source.relative_to(SHARED / "bccd" / part)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    data = root / "data.yaml"
    data.write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: [RBC, WBC, Platelets]\n")
    return data


@pytest.fixture(scope="session")
def cifar100(tmp_path_factory) -> Path:
    """Ten classes of CIFAR-100, four images of each in train and in test."""
    if not (SHARED / "cifar100_subset").is_dir():
        pytest.skip(f"no CIFAR-100 images at {SHARED / 'cifar100_subset'}")
    return unpack_cifar100(tmp_path_factory.mktemp("data") / "cifar100", classes=10, each=4)


@pytest.fixture(scope="module")
def browser():
    """A running Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=chromium, args=CHROMIUM)
        yield running
        running.close()
