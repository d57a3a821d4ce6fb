"""The page that segments in the browser, driven in headless Chromium: its labels beside PyTorch's, folders, video, camera, comparison, keys, WebGPU."""

import base64
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from rtseg.core.errors import ArtifactError
from rtseg.data.labels import CAMVID
from rtseg.data.scenes import draw_scene
from rtseg.models.registry import create_model
from rtseg.runtimes.runtimes import TorchRuntime
from rtseg.shipping.checking import settled
from rtseg.shipping.faithful import agreement
from rtseg.web.page import page_network, write_page
from rtseg.web.runtime_files import onnxruntime_web

SIZE = (192, 256)
LABELS = "async () => { const { state } = await import('./app.js'); return state.panes.map(p => btoa(String.fromCharCode(...p.labels))) }"
STATUS = "text => document.getElementById('status').textContent.includes(text)"


@pytest.fixture(scope="module")
def runtime_files():
    try:
        return onnxruntime_web()
    except ArtifactError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return {name: settled(create_model(name, num_classes=11), (2, 3, *SIZE)) for name in ("fastscnn", "enet")}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Three pictures of other sizes than the network's: CamVid's where they are, else drawn; the second lies on its side and says so by EXIF."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(1)
    found = sorted((pytest.importorskip("tests.conftest").SHARED / "camvid" / "test").glob("*.jpg"))
    pictures = [Image.open(path) for path in found[::80]] or [
        Image.fromarray(draw_scene(rng, size=(300, 410))[0]) for _ in range(3)
    ]
    paths = [folder / f"{name}.jpg" for name in ("one", "three", "two")]
    for path, picture in zip(paths, pictures[:3], strict=True):
        picture.save(path, quality=95)
    turned, exif = Image.open(paths[1]).transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # turn it right by 90 degrees to see it
    turned.save(paths[1], quality=95, exif=exif)
    return paths


@pytest.fixture(scope="module")
def site(tmp_path_factory, networks, runtime_files):
    """The address of a page with two networks, behind its own server."""
    folder = tmp_path_factory.mktemp("site") / "page"
    made = [page_network(net, name=name, labels=CAMVID, size=SIZE) for name, net in networks.items()]
    write_page(folder, made, runtime_files=runtime_files)
    server = subprocess.Popen(
        [sys.executable, folder / "start.py", "--port", "0", "--no-browser"], stdout=subprocess.PIPE, text=True
    )
    yield server.stdout.readline().split()[0]
    server.terminate()
    server.wait(30)


@pytest.fixture
def page(chromium, site):
    yield from opened(chromium, site)


def opened(browser, site):
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
    tab = context.new_page()
    tab.set_default_timeout(90_000)
    asked, wrong = [], []
    tab.on("request", lambda request: asked.append((request.method, request.url)))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.goto(site)
    tab.wait_for_selector("body[data-ready]")
    yield tab
    assert not wrong, wrong
    own = {url for method, url in asked if method == "GET" and url.startswith((site, "blob:", "data:"))}
    assert {url for _, url in asked} <= own, "the page talks to somebody else, or sends something"
    context.close()


def done(page, count):
    page.wait_for_function("n => Number(document.body.dataset.done) >= n", arg=count, polling=200)


def labels_of(page):
    return [np.frombuffer(base64.b64decode(text), np.uint8).reshape(SIZE) for text in page.evaluate(LABELS)]


def seen(path):
    """What `serve.py` shows a network of a photograph."""
    with Image.open(path) as picture:
        exif = picture.getexif().get(0x0112, 1)
        upright = picture.transpose(Image.Transpose.ROTATE_270) if exif == 6 else picture
        return np.asarray(upright.convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR))


def test_labels_are_those_of_pytorch(page, networks, photographs, shots, keep):
    page.set_input_files("#files", photographs)
    done(page, 1)
    page.check("#beside")
    done(page, 2)
    shares, order = {name: [] for name in networks}, ("one", "three", "two")
    for place, name in enumerate(order):
        assert page.inner_text("#place") == f"{place + 1} of 3" and name in page.inner_text("#status")
        picture = seen(next(path for path in photographs if path.stem == name))
        for (network, model), found in zip(networks.items(), labels_of(page), strict=True):
            shares[network].append(agreement([found], [TorchRuntime(model)(picture)]))
        if place < 2:
            page.keyboard.press("ArrowRight")
            done(page, 3 + place)
    assert min(min(found) for found in shares.values()) >= 0.99, shares
    keep(page, shots / "web_page.png", full_page=True)


def test_pixels_are_pillows_own(page):
    rng = np.random.default_rng(0)
    for (height, width), (tall, wide) in (
        ((37, 53), (20, 31)),
        ((20, 31), (37, 53)),
        ((16, 16), (16, 40)),
        ((90, 40), (9, 40)),
    ):
        picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        rgba = np.dstack([picture, np.full((height, width), 255, np.uint8)])
        found = page.evaluate(
            "async ([bytes, w, h, W, H]) => { const { bilinear } = await import('./resize.js'); return Array.from(bilinear(Uint8Array.from(bytes), w, h, W, H)) }",
            [rgba.ravel().tolist(), width, height, wide, tall],
        )
        wanted = np.asarray(Image.fromarray(picture).resize((wide, tall), Image.Resampling.BILINEAR))
        assert (np.array(found, np.uint8).reshape(wanted.shape) == wanted).all()


def test_a_mask_is_saved_in_the_palette_at_the_photographs_size(page, networks, photographs, tmp_path):
    page.set_input_files("#files", photographs[0])
    done(page, 1)
    with page.expect_download() as download:
        page.click(".save-mask")
    download.value.save_as(tmp_path / download.value.suggested_filename)
    mask = np.asarray(Image.open(tmp_path / "one-mask.png").convert("RGB"))
    small = Image.fromarray(labels_of(page)[0]).resize(mask.shape[1::-1], Image.Resampling.NEAREST)
    assert mask.shape[:2] == np.asarray(Image.open(photographs[0])).shape[:2]
    assert (mask == CAMVID.colorize(np.asarray(small))).all()


def test_what_is_shown_can_be_changed_by_hand_and_by_key(page, photographs):
    page.set_input_files("#files", photographs[0])
    done(page, 1)
    canvas = page.locator("canvas")
    alt, overlay = canvas.get_attribute("aria-label"), canvas.screenshot()
    counts = np.bincount(labels_of(page)[0].ravel(), minlength=11)
    most = CAMVID.classes[counts.argmax()]
    assert f"by fastscnn: {most} {round(100 * counts.max() / counts.sum())} %" in alt
    assert page.locator(".legend button").count() == (counts > 0).sum()
    page.locator("h1").click()
    page.keyboard.press("v")
    mask = canvas.screenshot()
    assert page.is_checked("input[value=mask]") and mask != overlay
    page.select_option("#palette", "colour-blind")
    assert canvas.screenshot() != mask
    page.locator(".legend button").first.press("Enter")
    assert page.locator(".legend button").first.get_attribute("aria-pressed") == "false"
    canvas.hover(position={"x": 200, "y": 100})
    assert re.fullmatch(rf"under the pointer: ({'|'.join(CAMVID.classes)})", page.inner_text(".under"))
    assert "ms a frame in the network" in page.inner_text(".times") and "thread" in page.inner_text(".times")


def test_a_folder_is_sorted_and_other_files_are_told(page, photographs, tmp_path):
    for number in (10, 9, 1):
        Image.open(photographs[0]).save(tmp_path / f"street {number}.jpg")
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files("#folder", tmp_path)
    done(page, 1)
    assert (
        page.inner_text("#place") == "1 of 3"
        and page.inner_text("#status") == "street 1.jpg; 1 other file was left out"
    )
    page.click("#previous")
    done(page, 2)
    assert page.inner_text("#status").startswith("street 10.jpg")


def test_what_cannot_be_read_is_said(page, tmp_path):
    clear = Image.new("RGBA", (40, 30), (10, 200, 30, 255))
    clear.putpixel((3, 4), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no picture")
    for name, words in (
        ("clear.png", "transparency"),
        ("broken.jpg", "broken.jpg cannot be read"),
        ("notes.txt", "no picture"),
    ):
        page.set_input_files("#files", tmp_path / name)
        page.wait_for_function(STATUS, arg=words)
        assert "failed" in page.get_attribute("#status", "class")


def test_a_video_plays_with_its_masks(page, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "drive.webm"), cv2.VideoWriter_fourcc(*"VP80"), 10, (320, 240))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no WebM")
    for k in range(100):  # ten seconds: on a busy machine a frame may take one of them
        writer.write(np.roll(draw_scene(np.random.default_rng(3), size=(240, 320))[0], 8 * k, axis=1)[..., ::-1].copy())
    writer.release()
    page.set_input_files("#files", tmp_path / "drive.webm")
    done(page, 3)
    page.click("#play")
    assert page.inner_text("#play") == "Play" and "median of" in page.inner_text(".times")
    assert page.locator("canvas").evaluate("c => [c.width, c.height]") == [320, 240]


def test_the_camera_is_segmented(page):
    page.click("#camera")
    done(page, 2)
    assert page.inner_text("#status") == "camera" and page.locator(".legend button").count() > 0


def test_on_a_phone_nothing_is_cut_off(page, photographs):
    page.set_viewport_size({"width": 390, "height": 800})
    page.set_input_files("#files", photographs[0])
    done(page, 1)
    page.check("#beside")
    done(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_webgpu_gives_the_same_labels(open_browser, site, photographs, networks):
    browser = open_browser("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
    tabs = opened(browser, site)
    page = next(tabs)
    if page.locator("#device option[value=webgpu]").count() == 0:
        pytest.skip("this Chromium offers no WebGPU, not even in software")
    page.set_input_files("#files", photographs[0])
    done(page, 1)
    page.select_option("#device", "webgpu")
    page.wait_for_function(STATUS, arg="WebGPU", timeout=300_000)
    assert "failed" not in (page.get_attribute("#status", "class") or ""), page.inner_text("#status")
    done(page, 2)
    wanted = TorchRuntime(next(iter(networks.values())))(seen(photographs[0]))
    assert agreement(labels_of(page)[:1], [wanted]) >= 0.99
    next(tabs, None)
