"""From the launcher by a click: the pages to touch of one run, each explorer by keys alone, what a screen reader is told, and how long each answer takes (to answers.json beside the screenshots)."""

import os
import re
from pathlib import Path

import pytest
import torch

from rtseg.core.environment import cpu_name
from rtseg.core.files import read_json, save_tensors, write_json, write_yaml
from rtseg.data.scenes import make_scenes
from rtseg.models.fasterseg import FasterSeg
from rtseg.runs.launcher import TOUCHED, write_touch_pages
from rtseg.search import decode
from rtseg.search.expected import PAIRS
from rtseg.search.logits import ArchLogits
from tests.browser.driving import TOKEN, ready, run_all, serving_lab
from tests.explore.test_explorers import CLASSES, SIZE, SPACE, history, made_table

EXPLORER = ".rtseg-explorer"
WATCH = """element => {
    window.answer = { start: null, last: null };
    const begin = () => { window.answer.start ??= performance.now(); };
    for (const kind of ["keydown", "pointerup", "change"]) document.addEventListener(kind, begin, { capture: true, once: true });
    window.watch?.disconnect();
    window.watch = new MutationObserver(() => { if (window.answer.start !== null) window.answer.last = performance.now(); });
    window.watch.observe(element, { childList: true, subtree: true, attributes: true, characterData: true });
}"""
# at rest for long enough; a key that changes nothing (the first image is shown already) is given up after two seconds
QUIET = """() => {
    const { start, last } = window.answer, now = performance.now();
    return start !== null && (last === null ? now - start > 2000 : now - last > 800);
}"""


def made_run(folder: Path) -> Path:
    """A run with all that the six explorers look for: scenes, a search of three epochs, a table, two networks that were not trained."""
    make_scenes(folder / "data/scenes-1", counts={"val": 4}, size=(96, 192))
    space = {**SPACE.to_dict(), "widths": list(SPACE.widths), "operators": list(SPACE.operators)}
    data = {"name": "synthetic", "root": None, "labels": None, "val_split": "val"}
    write_yaml(folder / "config.yaml", {"preset": "demo", "seed": 0, "space": space, "data": data})
    write_json(folder / "environment.json", {})
    write_json(folder / "manifest.json", {stage: {"seconds": 1.0} for stage in ("data", "search", "student")})
    records, table = history(), made_table()
    write_json(folder / "search/history.json", [record.to_dict() for record in records])
    table.save(folder / "latency/table.json")
    for role in ("student", "teacher"):
        logits = ArchLogits.from_dict(records[-1].logits[role])
        limits = dict(latency=table.latency, size=SIZE, num_classes=CLASSES)
        arch = decode(logits, SPACE, lasts=PAIRS[0], role=role, **limits).arch
        arch.save(folder / f"search/{role}.json")
        torch.manual_seed(0)
        save_tensors(folder / role / "model.safetensors", FasterSeg(arch, 19).state_dict())
    rows = [{"epoch": e, "step": 9 * e, "lr": 0.1, "losses": {"main": 1 / e}, "miou": 0.1 * e} for e in (1, 2)]
    write_json(folder / "student/training.json", {"metrics": rows})
    write_touch_pages(folder)
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    home = tmp_path_factory.mktemp("lab")
    made_run(home / "runs/demo")
    with serving_lab(home, ("index.ipynb",)) as address:
        yield address


@pytest.fixture(scope="module")
def answers(shots):
    """Milliseconds of what a hand does, by explorer and key; written in the end."""
    found = {}
    yield found
    path = shots / "answers.json"
    known = read_json(path)["ms"] if path.is_file() else {}
    write_json(path, {"machine": f"{cpu_name()}, {os.cpu_count()} cores", "ms": {**known, **found}})


def opened(tab, lab, what):
    """The explorer of a page to touch, run."""
    tab.goto(f"{lab}/lab/tree/runs/demo/touch/{what}.ipynb?token={TOKEN}&reset")
    ready(tab)
    run_all(tab)
    explorer = tab.locator(EXPLORER).first
    explorer.locator(".js-plotly-plot .main-svg").first.wait_for(state="attached")
    return explorer


def said(explorer):
    """What a screen reader is told of the picture."""
    return explorer.locator(".js-plotly-plot").first.get_attribute("aria-label")


def pressed(tab, explorer, key):
    """Press a key in the explorer; milliseconds until nothing in it changes any more, None where nothing changed."""
    tab.mouse.move(2, 2)  # what hovers changes by itself
    explorer.evaluate(WATCH)
    tab.keyboard.press(key)
    tab.wait_for_function(QUIET, polling=100)
    return tab.evaluate("() => window.answer.last && window.answer.last - window.answer.start")


def test_a_click_on_a_run_in_the_launcher_opens_its_page(tab, lab, shots, keep):
    tab.goto(f"{lab}/?token={TOKEN}&reset")
    ready(tab)
    run_all(tab)
    links = tab.locator(".jp-OutputArea-output tr", has_text="demo").locator("a")
    assert links.all_inner_texts()[: len(TOUCHED)] == list(TOUCHED)
    links.get_by_text("masks", exact=True).click()
    tab.wait_for_selector(".lm-TabBar-tabLabel:has-text('masks.ipynb')")


@pytest.mark.parametrize("what", TOUCHED)
def test_an_explorer_is_touched_by_keys_alone(tab, lab, shots, keep, answers, what):
    explorer = opened(tab, lab, what)
    explorer.evaluate("element => element.focus()")
    heads = tab.locator(".jp-Notebook .jp-MarkdownCell").count()
    first, words = said(explorer), set()
    assert first and len(first) > 20
    keys = explorer.locator("kbd").all_text_contents()  # the list is folded up
    names = {"←": "ArrowLeft", "→": "ArrowRight", "↑": "ArrowUp", "↓": "ArrowDown", "space": "Space"}
    assert {"←", "→"} <= set(keys)
    for key in (k for k in keys if k not in ("space", "s")):
        ms = [took for _ in range(2) if (took := pressed(tab, explorer, names.get(key, key))) is not None]
        if ms:
            answers[f"{what}: {key}"] = round(min(ms))
        words.add(said(explorer))
    assert len(words) > 1 and tab.locator(".jp-Notebook .jp-MarkdownCell").count() == heads
    assert explorer.evaluate("element => element.contains(document.activeElement)")
    keep(explorer, shots / f"explorer_{what}.png")
    tab.keyboard.press("Escape")
    assert not explorer.evaluate("element => element.contains(document.activeElement)")


def test_a_cell_of_the_confusion_opens_its_images(tab, lab, shots, keep):
    explorer = opened(tab, lab, "masks")
    explorer.get_by_role("button", name="confusion").click()
    cells = explorer.locator(".js-plotly-plot", has_text=re.compile("Confusion")).last
    cells.locator(".main-svg").first.wait_for(state="attached")
    tab.wait_for_timeout(500)
    area = cells.locator(".nsewdrag").first
    area.scroll_into_view_if_needed()
    plot = area.bounding_box()
    tab.mouse.click(plot["x"] + 8, plot["y"] + 8)
    told = explorer.locator(".widget-html", has_text=re.compile(r"most .* taken for .* first")).first
    told.wait_for()
    keep(explorer, shots / "confusion.png")


def test_links_of_the_zoo_and_the_run_browser_open_pages(tab, lab):
    explorer = opened(tab, lab, "runs")
    explorer.locator("a", has_text=re.compile("^masks$")).click()
    tab.wait_for_selector(".lm-TabBar-tabLabel:has-text('masks.ipynb')")
    explorer = opened(tab, lab, "zoo")
    explorer.evaluate("element => element.focus()")
    tab.keyboard.press("ArrowRight")
    page = explorer.locator("a", has_text="its page")
    page.wait_for()
    assert re.search(r"models/\d\d_\w+\.(ipynb|html)", page.get_attribute("href"))


def test_images_play_one_after_the_other(tab, lab):
    explorer = opened(tab, lab, "masks")
    explorer.evaluate("element => element.focus()")
    tab.keyboard.press("Home")
    explorer.locator(".widget-html", has_text="1 of 4").first.wait_for()
    tab.keyboard.press("Space")
    explorer.locator(".widget-html", has_text="4 of 4").first.wait_for()
