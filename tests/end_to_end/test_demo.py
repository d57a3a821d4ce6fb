"""The README's promise: the embedded streets are learned, searched and shipped in one command."""

import json
from statistics import mean

import pytest
from pytest import approx

from rtseg.core.architecture import Architecture
from rtseg.runs.config import load_preset
from rtseg.runs.runner import run
from rtseg.search.latency_table import LatencyTable

CROP = [64, 128]
SHORT = {  # everything that the demo does, on smaller pictures and for fewer steps
    "data.scene_size": CROP,
    "data.scenes": {"train": 64, "val": 16, "test": 8},
    "space.layers": 6,
    "space.widths": [4, 8],
    "latency.size": CROP,
    "latency.entry_seconds": 0.02,
    "latency.network_seconds": 0.3,
    "latency.check_networks": 2,
    "pretrain.epochs": 1,
    "pretrain.steps_per_epoch": 2,
    "pretrain.augmentation.crop": CROP,
    "search.epochs": 2,
    "search.steps_per_epoch": 2,
    "search.augmentation.crop": CROP,
    "search.score_images": 4,
    "teacher.augmentation.crop": CROP,
    "student.augmentation.crop": CROP,
    "random.twins": 2,
}


def demo(folder, monkeypatch, **values) -> dict[str, dict]:
    """The networks of a finished demo by name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    settings = load_preset("demo").with_values({"latency.accept_noisy": True, **values})
    result = run(settings, folder / "run", say=lambda line: None, show_progress=False)
    networks = {row["name"]: row for row in json.loads((folder / "run/results.json").read_text())["networks"]}
    assert result.report.stat().st_size < 3_000_000
    table = LatencyTable.load(folder / "run/latency/table.json")
    for name in ("teacher", "student"):
        predicted = table.predict(Architecture.load(folder / f"run/search/{name}.json"))
        assert networks[name]["predicted_ms"] == approx(predicted)
    return networks


@pytest.mark.long
def test_the_demo_student_learns_the_streets(tmp_path, monkeypatch):
    networks = demo(tmp_path, monkeypatch)
    chance = [row["miou"] for name, row in networks.items() if name.startswith("random")]
    assert len(chance) == 2 and len({row["architecture"] for row in networks.values()}) == 4
    assert all(networks["student"][key] < networks["teacher"][key] for key in ("params", "gmac"))
    assert networks["student"]["miou"] > max(0.5, mean(chance) - 0.05), networks


@pytest.mark.slow
def test_a_short_demo_learns_too(tmp_path, monkeypatch):
    networks = demo(tmp_path, monkeypatch, **SHORT)
    assert list(networks) == ["teacher", "student", "random", "random-2"]
    assert networks["student"]["miou"] > 0.2, networks["student"]
