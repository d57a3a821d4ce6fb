"""Figures hold the right numbers, boxes and texts; none of these tests needs a browser."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from rtseg import viz
from rtseg.core.architecture import OPERATORS, Architecture, Branch, OpSpec
from rtseg.core.errors import ConfigError, DataError, RtsegError
from rtseg.core.values import EvalReport, LabelSet, Latency
from rtseg.data.checks import DataReport, SplitStats
from rtseg.search.health import Health
from rtseg.search.logits import ArchLogits
from rtseg.search.record import SearchRecord
from rtseg.viz import architectures, figures, latency, masks, search, supernets

STUDENT = Architecture(
    branches=(
        Branch(
            ops=(3, 3, 4, 2, 4, 4, 4, 4, 4, 4),
            scales=(0, 0, 0, 0, 1, 1, 1, 1, 2, 2),
            widths=(4, 4, 4, 8, 4, 4, 4, 4, 4),
        ),
        Branch(ops=(3, 3, 4, 4, 3, 3, 4, 4, 4), scales=(0, 0, 0, 0, 0, 0, 1, 1, 1), widths=(4, 4, 4, 4, 4, 4, 4, 12)),
    )
)
LABELS = LabelSet("two", ("road", "car"), ((128, 64, 128), (0, 0, 142)), ((0, 0), (1, 1), (255, 255)))


def random_architecture(seed: int) -> Architecture:
    rng = np.random.default_rng(seed)
    branches = []
    for last in rng.permutation(3)[: rng.integers(1, 4)]:
        layers = int(rng.integers(4, 17))
        steps = np.sort(rng.choice(layers - 1, size=last, replace=False))
        scales = tuple(int((steps < layer).sum()) for layer in range(layers))
        widths = tuple(int(w) for w in rng.choice((4, 6, 8, 10, 12), layers - 1))
        branches.append(Branch(tuple(int(o) for o in rng.integers(0, 5, layers)), scales, widths))
    return Architecture(tuple(branches), head_width=int(rng.choice((8, 12))))


def shape_names(figure) -> list[str]:
    return [shape.name for shape in figure.layout.shapes]


@pytest.fixture
def no_browser(monkeypatch):
    monkeypatch.setattr(figures.shared_browser(), "failure", "no browser in this test")
    monkeypatch.setattr(figures.shared_browser(), "noted", set())


# --- architectures


def test_published_student_has_sixteen_cells_and_three_shared():
    figure = viz.plot_architecture(STUDENT)
    cells = [n for n in shape_names(figure) if n.startswith("cell")]
    assert len(cells) == len(set(cells)) == 16 and sum("[0, 1]" in n for n in cells) == 3
    assert sum(n.startswith("join") for n in shape_names(figure)) == 3
    texts = dict(zip(cells, figure.data[0].text, strict=False))
    assert texts["cell 3 [0]"] == "zoom<br>↓ 128" and texts["cell 7 [1]"] == "zoom ×2<br>192"


@pytest.mark.parametrize("seed", range(12))
def test_boxes_of_random_architectures_never_overlap_and_lines_run_right(seed):
    arch = random_architecture(seed)
    boxes = [architectures.cell_box(arch, c) for c in arch.cells()] + architectures.frame_boxes(arch, 19, {})
    placed, bands = architectures.place(boxes, [b.last for b in arch.branches], 36)
    for i, a in enumerate(placed):
        assert bands[a.row][0] < a.y - 18 and a.y + 18 < bands[a.row][1]
        for b in placed[i + 1 :]:
            assert abs(a.x - b.x) >= architectures.BOX_WIDTH or abs(a.y - b.y) >= 36, (a.name, b.name)
    at = {b.name: b for b in placed}
    assert all(at[e.source].x < at[e.target].x for e in architectures.edges(arch))
    figure = viz.plot_architecture(arch)
    assert sum(n.startswith("cell") for n in shape_names(figure)) == len(arch.cells())


def test_colours_and_width_bars_follow_operator_and_width():
    figure = viz.plot_architecture(STUDENT)
    by_name = {s.name: s for s in figure.layout.shapes}
    assert by_name["cell 0 [0, 1]"].fillcolor == figures.OPERATOR_COLORS["conv_2x"]
    assert by_name["cell 3 [0]"].fillcolor == figures.OPERATOR_COLORS["conv_downup"]
    bar = lambda name: by_name[f"width of {name}"].x1 - by_name[f"width of {name}"].x0  # noqa: E731
    assert bar("cell 7 [1]") == pytest.approx(3 * bar("cell 0 [0, 1]"))
    legend = [t.name for t in figure.data if t.showlegend is not False]
    assert "branch to 1/32" in legend and "branch to 1/16" in legend and "skip" not in legend


def test_latencies_in_boxes_add_up_to_the_prediction():
    cost = lambda spec: spec.in_channels * spec.out_channels * 1e-4  # noqa: E731
    times = architectures.box_times(STUDENT, cost, size=(512, 1024), num_classes=11)
    assert sum(times.values()) == pytest.approx(sum(cost(s) for s in STUDENT.op_specs(512, 1024, 11)))
    figure = viz.plot_architecture(STUDENT, latency=cost, size=(512, 1024), num_classes=11)
    assert f"{sum(times.values()):.2f} ms predicted at 512 x 1024" in figure.layout.title.text
    assert all("ms" in text for text in figure.data[0].text)
    with pytest.raises(ConfigError, match="does not hold"):
        viz.plot_architecture(STUDENT, latency={"conv": 1.0})


def test_the_drop_down_shows_one_network_at_a_time():
    figure = viz.compare_architectures({"a": STUDENT, "b": random_architecture(3)})
    for button in figure.layout.updatemenus[0].buttons:
        visible = button.args[0]["visible"]
        assert len(visible) == len(figure.data) and 0 < sum(visible) < len(visible)
    assert [t.visible for t in figure.data] == list(figure.layout.updatemenus[0].buttons[0].args[0]["visible"])


# --- supernets and searches


def test_supernet_bars_fill_the_cell_and_follow_the_softmax():
    logits = ArchLogits.random(6, generator=torch.Generator().manual_seed(0))
    figure = viz.plot_supernet(logits)
    widths = {s.name: s.x1 - s.x0 for s in figure.layout.shapes if s.name.startswith("operator")}
    assert len(widths) == 5 * (6 + 5 + 4)
    share = torch.softmax(logits.alpha[1][2], 0)
    for k in range(5):
        assert widths[f"operator 3 1 {k}"] == pytest.approx(float(share[k]) * supernets.CELL, abs=0.11)


def test_supernet_refuses_names_that_do_not_fit():
    with pytest.raises(ConfigError, match="5 operators"):
        viz.plot_supernet(ArchLogits.random(6), operators=("skip",))
    with pytest.raises(ConfigError, match="no cell at layer 0"):
        supernets.cell_probabilities(ArchLogits.random(6), 0, 1)


def test_health_takes_flat_and_nested_records_and_leaves_gaps():
    health = Health(0.9, 0.8, 0.7, 0.2, 0.1, None, None, None, "healthy")
    record = SearchRecord(0, 5, {"a": 1.0, "b": 2.0}, {}, 0.0, None, None, health)
    figure = viz.plot_health([record, replace(record, epoch=1)])
    flat = {"epoch": 0, "entropy_operators": 0.9, "loss": 3.0}
    assert [t.name for t in viz.plot_health([flat]).data] == ["operators", "loss"]
    assert [t.name for t in figure.data] == ["operators", "paths", "widths", "skips", "loss"]
    assert list(figure.data[-1].y) == [3.0, 3.0] and "healthy" in figure.layout.title.text
    with pytest.raises(ConfigError):
        viz.plot_health([])


def test_logit_history_picks_the_most_probable_operator():
    logits = ArchLogits.random(5, generator=torch.Generator().manual_seed(2), scale=2)
    found = search.logit_history([logits], 2, widths=(4, 6, 8, 10, 12))
    assert [row[0] for row in found["operator"]] == logits.alpha[2].argmax(1).tolist()
    assert found["down"][0] == [1.0] and found["down"][1][0] == pytest.approx(
        float(torch.softmax(logits.beta[1][0], 0)[0])
    )


def test_frontier_keeps_only_unbeaten_points():
    points = [
        {"name": str(i), "ms": ms, "miou": v}
        for i, (ms, v) in enumerate([(10, 0.5), (12, 0.5), (11, 0.6), (20, 0.59), (30, 0.7)])
    ]
    assert [p["name"] for p in search.frontier(points)] == ["0", "2", "4"]
    assert list(viz.plot_frontier(points).data[0].x) == [10, 11, 30]


# --- masks


def test_grid_holds_the_palette_and_red_only_where_wrong():
    image, mask = np.full((40, 80, 3), 90, np.uint8), np.zeros((40, 80), np.uint8)
    mask[:, 40:], mask[30:] = 1, 255
    guess = np.zeros_like(mask)
    grid = np.asarray(viz.show_masks([image], [mask], [guess], labels=LABELS, width=4 * 80 + 18))
    label, errors = grid[24:64, 86:166], grid[24:64, 258:338]
    assert (
        tuple(label[5, 5]) == (128, 64, 128) and tuple(label[5, 70]) == (0, 0, 142) and tuple(label[35, 5]) == (0, 0, 0)
    )
    red = (errors[..., 0].astype(int) - errors[..., 1]) > 80
    assert red[5, 60] and not red[5, 10] and not red[35, 60]


def test_masks_take_tensors_and_refuse_floats_and_wrong_sizes():
    tensor = torch.zeros(3, 20, 30, dtype=torch.uint8)
    assert masks.as_rgb(tensor).shape == (20, 30, 3)
    with pytest.raises(DataError, match="uint8"):
        viz.error_map(
            np.zeros((20, 30, 3), np.float32), np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8), LABELS
        )
    with pytest.raises(DataError, match="does not fit"):
        viz.show_masks([np.zeros((20, 30, 3), np.uint8)], [np.zeros((10, 30), np.uint8)], labels=LABELS)


# --- numbers


def test_agreement_and_scatter_say_the_same():
    rng = np.random.default_rng(1)
    measured = rng.uniform(3, 9, 20)
    predicted = measured * rng.uniform(0.95, 1.05, 20)
    r, error = latency.correlation_and_error(predicted, measured)
    assert r == pytest.approx(np.corrcoef(predicted, measured)[0, 1]) and error == pytest.approx(
        np.mean(np.abs(predicted / measured - 1))
    )
    assert f"r = {r:.3f}" in viz.plot_agreement(list(predicted), list(measured)).layout.title.text


def test_latency_table_means_over_input_widths():
    specs = [OpSpec(op, 32, 64, i, o) for op in OPERATORS for i in (8, 16) for o in (8, 16)]
    figure = viz.plot_latency_table(
        {s.key(): float(s.in_channels * s.out_channels) for s in specs} | {OpSpec("head", 32, 64, 8, 19).key(): 9.0}
    )
    assert figure.data[0].z[0][0] == 8 * 12 and list(figure.data[0].x) == ["8", "16"] and len(figure.data) == 1


def test_latency_bars_carry_quartiles():
    m = Latency(10.0, 9.0, 12.0, 30, (1, 3, 64, 64), "cpu", "torch", "fp32", 1)
    bar = viz.plot_latencies({"net": m}).data[0]
    assert (bar.x[0], bar.error_x.array[0], bar.error_x.arrayminus[0]) == (10.0, 2.0, 1.0)


def test_confusion_rows_add_up_and_iou_skips_absent_classes():
    report = EvalReport(0.6, (0.6, None), ("road", "car"), 0.75, ((3, 1), (0, 0)), 1, "x", "val")
    assert viz.plot_confusion(report).data[0].z[0] == (0.75, 0.25) or list(viz.plot_confusion(report).data[0].z[0]) == [
        0.75,
        0.25,
    ]
    drawn = viz.plot_iou(report)
    assert list(drawn.data[0].y) == ["road"] and "1 of 2 classes do not occur" in drawn.layout.title.text


def test_class_shares_mark_the_absent_class():
    split = SplitStats("train", 1, 1, ((4, 4, 1),), (12, 0), 4, (1, 0))
    figure = viz.plot_class_shares(DataReport("d", ("road", "car"), (split,)))
    assert list(figure.data[0].x) == [1.0] and figure.data[1].y == ("car",)


def test_tables_refuse_unknown_columns_and_escape_html():
    with pytest.raises(ConfigError, match="did you mean 'miou'"):
        viz.table([{"miou": 1.0}], ["moiu"])
    assert "<script>" not in viz.table([{"a": "<script>"}]).html


# --- showing


def test_without_a_browser_figures_are_shown_all_the_same(no_browser, capsys):
    bundles = [figures.mime_bundle(viz.plot_architecture(STUDENT)) for _ in range(2)]
    assert all("image/png" not in b and "application/vnd.plotly.v1+json" in b for b in bundles)
    note = capsys.readouterr().out
    assert note.count("no PNG of the figure (no browser in this test)") == 1 and len(note.splitlines()) == 1
    with pytest.raises(RtsegError, match="no browser in this test"):
        viz.render_png(viz.new_figure("x"))


def test_a_browser_that_fails_is_tried_once():
    calls = []

    class Broken(figures.Browser):
        def start(self):
            calls.append(1)
            raise RuntimeError("cannot start\nsecond line")

    broken = Broken()
    for _ in range(3):
        with pytest.raises(RtsegError) as caught:
            viz.render_png(viz.new_figure("x"), browser=broken)
        assert "\n" not in str(caught.value)
    assert len(calls) == (1 if figures.find_spec("kaleido") else 0)


def test_every_bundle_is_json_and_images_fit_the_limit(no_browser):
    for item in (
        viz.plot_architecture(STUDENT),
        viz.plot_supernet(ArchLogits.random(5)),
        Image.effect_noise((900, 600), 80),
    ):
        assert json.loads(json.dumps(figures.mime_bundle(item)))
    png = base64.b64decode(figures.mime_bundle(Image.effect_noise((900, 600), 80))["image/png"])
    assert len(png) <= 100_000 and Image.open(io.BytesIO(png)).format == "PNG"


def test_flat_pictures_keep_their_colours_exactly():
    image = Image.new("RGB", (200, 100), figures.INK)
    image.paste(Image.new("RGB", (50, 50), figures.SERIES[0]), (10, 10))
    back = Image.open(io.BytesIO(figures.squeeze_png(image))).convert("RGB")
    assert back.tobytes() == image.tobytes()


def test_html_fragments_leave_the_script_to_the_page():
    fragment = viz.to_html(viz.plot_architecture(STUDENT))
    assert "Plotly.newPlot" in fragment and len(fragment) < 60_000 and "cdn" not in fragment
