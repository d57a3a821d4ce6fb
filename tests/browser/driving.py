"""JupyterLab as `rtseg lab` starts it, in a tab of Chromium, and the gestures that the tests make there."""

import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import anywidget

from rtseg.cli.lab import lab_words

ROOT = Path(__file__).resolve().parent.parent.parent
TOKEN = "browser-test"
MINUTES = float(os.environ.get("RTSEG_BROWSER_MINUTES", 6))  # how long one page may take to run


@contextmanager
def serving_lab(home, pages):
    """JupyterLab on copies of the pages in `home`; gives its address."""
    for name in pages:
        (home / "nbs" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "nbs" / name, home / "nbs" / name)
    settings = home / "settings/@jupyterlab"
    for name, text in (
        ("notebook-extension/tracker", '{"windowingMode": "none"}'),
        ("apputils-extension/notification", '{"fetchNews": "false"}'),
    ):
        path = settings / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {
        f"JUPYTER{key}": str(home / value)
        for key, value in {
            "LAB_SETTINGS_DIR": "settings",
            "LAB_WORKSPACES_DIR": "workspaces",
            "_RUNTIME_DIR": "runtime",
            "_CONFIG_DIR": "config",
        }.items()
    }
    # where a virtual environment lies on top of another, JupyterLab looks for the widgets' part in the browser in the upper one only
    folders["JUPYTER_PATH"] = str(Path(anywidget.__file__).parents[4] / "share/jupyter")
    environment = (
        {key: value for key, value in os.environ.items() if key != "RTSEG_STILL"}
        | folders
        | {"IPYTHONDIR": str(home / "ipython"), "OMP_NUM_THREADS": "1", "JUPYTER_PREFER_ENV_PATH": "1"}
    )
    words = [
        *lab_words(home, port=port, browser=False, page="nbs/index.ipynb"),
        f"--IdentityProvider.token={TOKEN}",
        "--ServerApp.port_retries=0",
    ]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(words, env=environment, stdout=log, stderr=log, cwd=home)
        try:
            wait_for(f"http://127.0.0.1:{port}/api?token={TOKEN}", server, home / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)


def wait_for(address, server, log):
    for _ in range(360):
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except OSError:
            assert server.poll() is None, log.read_text()[-2000:]
            time.sleep(0.5)
    raise AssertionError(f"JupyterLab did not answer: {log.read_text()[-2000:]}")


def open_page(tab, lab, name):
    """Open a notebook of the project in JupyterLab and put the side bar away."""
    tab.goto(f"{lab}/lab/tree/nbs/{name}?token={TOKEN}&reset")
    return ready(tab)


def ready(tab):
    """Wait until the notebook's kernel answers; put the side bar away."""
    tab.wait_for_selector(".jp-Notebook .jp-Cell")
    tab.locator("#jp-main-statusbar").get_by_text(
        re.compile(r"\| Idle$")
    ).wait_for()  # cells that are run before the kernel answers are not run
    if tab.locator("#jp-left-stack").is_visible():
        tab.keyboard.press("Control+b")
    return tab


def run_all(tab):
    """Run > Run All Cells by the menu, wait until no cell is running, and look for errors."""
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.get_by_text("Run All Cells", exact=True).click()
    cells = tab.locator(".jp-Notebook .jp-CodeCell").count()
    done = "() => { const p = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')].map(e => e.textContent); return p.length && p.every(t => /\\[\\d+\\]/.test(t)) }"
    failed = '() => document.querySelector(\'.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"], .jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"] .ansi-red-fg\') !== null'
    tab.wait_for_function(f"() => ({done})() || ({failed})()", timeout=60_000 * MINUTES)
    errors = tab.locator('[data-mime-type="application/vnd.jupyter.error"]')
    assert errors.count() == 0, errors.first.inner_text()[-800:]
    return cells


def explorer_with(tab, description, kind):
    """The output that holds the explorer with such a control."""
    output = tab.locator(
        ".jp-OutputArea-output",
        has=tab.locator(f".{kind} .widget-label", has_text=re.compile(f"^{re.escape(description)}$")),
    ).first
    output.scroll_into_view_if_needed()
    output.locator(".js-plotly-plot .main-svg").first.wait_for(state="attached")
    return output


def drag(output, tab, description, to):
    """Drag the handle of a slider with the mouse to a share (0 to 1) of its length. Arrow keys belong to JupyterLab, which folds headings with them."""
    slider = output.locator(
        ".widget-slider", has=tab.locator(".widget-label", has_text=re.compile(f"^{re.escape(description)}$"))
    ).first
    slider.scroll_into_view_if_needed()
    handle, base = slider.locator(".noUi-handle").bounding_box(), slider.locator(".noUi-base").bounding_box()
    tab.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    tab.mouse.down()
    tab.mouse.move(base["x"] + base["width"] * to, base["y"] + base["height"] / 2, steps=8)
    tab.mouse.up()


def picture(output, tab):
    """The figure as pixels, once it stopped moving."""
    figure, last = output.locator(".js-plotly-plot").first, b""
    for _ in range(40):
        now = figure.screenshot()
        if now == last:
            return now
        last = now
        tab.wait_for_timeout(400)
    raise AssertionError("the figure never came to rest")


def changed(output, tab, before, what):
    """Wait for another picture than `before`."""
    for _ in range(60):
        now = picture(output, tab)
        if now != before:
            return now
        tab.wait_for_timeout(250)
    raise AssertionError(f"the picture did not follow {what}")


def text_of(output, pattern):
    """The text of the HTML widget that matches."""
    return output.locator(".widget-html, .jupyter-widgets-html").filter(has_text=re.compile(pattern)).first.inner_text()


def wait_text(output, tab, pattern, before):
    for _ in range(120):
        now = text_of(output, pattern)
        if now != before:
            return now
        tab.wait_for_timeout(250)
    raise AssertionError(f"the text stayed: {before}")
