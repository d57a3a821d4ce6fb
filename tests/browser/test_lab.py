"""Headless Chromium drives JupyterLab on this machine: pages run, controls move, pictures and numbers follow. `make test-browser` runs it; screenshots go to $RTSEG_SCREENSHOTS."""

import re

import pytest

from tests.browser.driving import (
    TOKEN,
    changed,
    drag,
    explorer_with,
    open_page,
    picture,
    run_all,
    serving_lab,
    text_of,
    wait_text,
)

PAGES = (
    "index.ipynb",
    "guides/11_from_other_projects.ipynb",
    "explore/11_architecture_explorer.ipynb",
    "explore/23_mask_viewer.ipynb",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with serving_lab(tmp_path_factory.mktemp("lab"), PAGES) as address:
        yield address


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
