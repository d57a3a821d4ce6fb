"""The browser that the tests drive, and where their screenshots go. Chromium is that of $RTSEG_CHROMIUM, else the first of the usual names on the PATH; without one the tests are skipped and say so."""

import io
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from rtseg.core.environment import git_state
from rtseg.core.files import read_json, write_json
from rtseg.viz.figures import squeeze_png

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")  # a made-up camera, and consent to it


def find_chromium() -> str | None:
    """The browser's program, or None."""
    given = os.environ.get("RTSEG_CHROMIUM")
    return given or next((path for path in map(shutil.which, NAMES) if path), None)


@pytest.fixture(scope="session")
def playwright():
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install 'rtseg[browser]'"
    )
    with sync_api.sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def open_browser(playwright):
    """Start Chromium with further words; it is closed in the end."""
    path = find_chromium()
    if path is None or not Path(path).exists():
        pytest.skip("no Chromium: install one, or say where it is with RTSEG_CHROMIUM")
    opened = []

    def start(*words: str):
        opened.append(playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *words]))
        return opened[-1]

    yield start
    for browser in opened:
        browser.close()


@pytest.fixture(scope="session")
def chromium(open_browser):
    return open_browser("--disable-gpu", *CAMERA)


@pytest.fixture(scope="session")
def shots(tmp_path_factory) -> Path:
    folder = Path(os.environ.get("RTSEG_SCREENSHOTS") or tmp_path_factory.mktemp("shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def keep():
    """A screenshot of a page or an explorer as a PNG of less than 200 kB, and beside it what made it."""

    def shoot(what, path: Path, **how) -> None:
        path.write_bytes(squeeze_png(Image.open(io.BytesIO(what.screenshot(**how))), limit=195_000))
        page, record = getattr(what, "page", what), path.with_name("screenshots.json")
        known = read_json(record) if record.exists() else {}
        facts = {
            "page": page.url.split("?")[0].partition("/tree/")[2] or page.title(),
            "browser": page.context.browser.version,
            "git": git_state(ROOT),
        }
        write_json(record, {**known, path.name: facts})

    return shoot


@pytest.fixture
def tab(chromium):
    context = chromium.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(90_000)
    yield page
    context.close()
