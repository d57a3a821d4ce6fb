"""Headless Chromium drives JupyterLab on this machine: pages run, controls move, pictures and numbers follow. `make test-browser` runs it; screenshots go to $RTSEG_SCREENSHOTS."""

import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from rtseg.cli.lab import lab_words

ROOT = Path(__file__).resolve().parent.parent.parent
TOKEN = "browser-test"
PAGES = (
    "index.ipynb",
    "guides/11_from_other_projects.ipynb",
    "explore/11_architecture_explorer.ipynb",
    "explore/23_mask_viewer.ipynb",
)
MINUTES = float(os.environ.get("RTSEG_BROWSER_MINUTES", 6))  # how long one page may take to run


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab as `rtseg lab` starts it, on copies of the pages; returns its address."""
    home = tmp_path_factory.mktemp("lab")
    for name in PAGES:
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


@pytest.fixture
def tab(chromium, lab):
    context = chromium.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(90_000)
    yield page
    context.close()


def open_page(tab, lab, name):
    """Open a notebook in JupyterLab and put the side bar away."""
    tab.goto(f"{lab}/lab/tree/nbs/{name}?token={TOKEN}&reset")
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


def test_the_index_is_the_first_page_and_its_links_open_pages(tab, lab, shots, keep):
    tab.goto(f"{lab}/?token={TOKEN}")
    tab.wait_for_selector(".jp-Notebook .jp-RenderedMarkdown h1")
    assert tab.url.split("?")[0].endswith("/lab/tree/nbs/index.ipynb")
    link = tab.locator(".jp-OutputArea-output a").filter(has_text="From FasterSeg").first
    link.scroll_into_view_if_needed()
    keep(tab, shots / "index.png")
    link.click()
    tab.wait_for_selector(".lm-TabBar-tabLabel:has-text('11_from_other_projects.ipynb')")


def test_a_guide_runs_from_top_to_bottom(tab, lab, shots, keep):
    open_page(tab, lab, PAGES[1])
    assert run_all(tab) > 3
    tables = tab.locator(".jp-OutputArea-output table")
    assert (
        tables.count() >= 4
        and "rtseg train --recipe"
        in tab.locator(".jp-OutputArea-output").filter(has_text="max_iter").first.inner_text()
    )
    tables.first.scroll_into_view_if_needed()
    keep(tab, shots / "guide.png")


def test_a_layer_is_chosen_and_edited(tab, lab, shots, keep):
    open_page(tab, lab, PAGES[2])
    run_all(tab)
    output = explorer_with(tab, "layer", "widget-slider")
    picture_before, facts = picture(output, tab), text_of(output, r"layer \d+ at")
    totals = text_of(output, r"given\s*now")
    place = int(re.search(r"layer (\d+) at", facts)[1])
    drag(output, tab, "layer", 0.4)
    wait_text(output, tab, r"layer \d+ at", facts)
    picture_moved = changed(output, tab, picture_before, "the slider")
    new = text_of(output, r"layer \d+ at")
    assert int(re.search(r"layer (\d+) at", new)[1]) not in (place, 0) and text_of(output, r"given\s*now") == totals
    operator = output.locator(
        ".widget-dropdown", has=tab.locator(".widget-label", has_text=re.compile("^operator$"))
    ).first.locator("select")
    other = "conv_2x" if "conv_2x," not in new else "skip"
    operator.select_option(other)
    edited = wait_text(output, tab, r"given\s*now", totals)
    picture_edited = changed(output, tab, picture_moved, "the operator")
    numbers = [re.findall(r"[\d.,]+ (?:ms|GMAC|parameters)", line) for line in edited.splitlines()]
    assert any(line[0] != line[1] for line in numbers if len(line) == 2) and f": {other}," in text_of(
        output, r"layer \d+ at"
    )
    keep(output, shots / "architecture_explorer.png")
    output.get_by_role("button", name="Undo").click()
    assert wait_text(output, tab, r"given\s*now", edited) == totals
    assert changed(output, tab, picture_edited, "undo")


def test_masks_are_stepped_and_coloured(tab, lab, shots, keep):
    open_page(tab, lab, PAGES[3])
    run_all(tab)
    output = explorer_with(tab, "image", "widget-slider")
    before, told = picture(output, tab), text_of(output, r"\d+ of \d+")
    place, many = map(int, re.search(r"(\d+) of (\d+)", told).groups())
    drag(output, tab, "image", 0 if place == many else 1)
    now = wait_text(output, tab, r"\d+ of \d+", told)
    assert int(re.search(r"(\d+) of", now)[1]) == (1 if place == many else many)
    slid = changed(output, tab, before, "the slider")
    output.locator(f"button[title='the {'next' if place == many else 'previous'} image']").click()
    stepped_to = wait_text(output, tab, r"\d+ of \d+", now)
    assert int(re.search(r"(\d+) of", stepped_to)[1]) == (2 if place == many else many - 1)
    stepped = changed(output, tab, slid, "the step")
    palette = output.locator(
        ".widget-dropdown", has=tab.locator(".widget-label", has_text=re.compile("^palette$"))
    ).first.locator("select")
    chosen = palette.input_value()
    palette.select_option("data set" if chosen != "data set" else "colour-blind")
    changed(output, tab, stepped, "the palette")
    keep(output, shots / "mask_viewer.png")
