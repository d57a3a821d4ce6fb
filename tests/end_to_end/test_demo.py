"""The README's promise: the embedded streets are learned, searched and shipped in one command; `test_end_to_end` runs a shorter one."""

import json
from statistics import mean

import pytest

from rtseg.runs.config import load_preset
from rtseg.runs.runner import run


def finished(preset, folder, monkeypatch):
    """The networks of a whole run by their names, and the mIoU of those by lot."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    settings = load_preset(preset).with_values({"latency.accept_noisy": True})
    result = run(settings, folder / "run", say=lambda line: None, show_progress=False)
    networks = {row["name"]: row for row in json.loads((folder / "run/results.json").read_text())["networks"]}
    chance = [row["miou"] for name, row in networks.items() if name.startswith("random")]
    assert result.report.stat().st_size < 3_000_000
    assert len(chance) == 2 and len({row["architecture"] for row in networks.values()}) == len(networks)
    return networks, chance


@pytest.mark.long
def test_the_demo_finds_a_network_that_beats_chance(tmp_path, monkeypatch):
    networks, chance = finished("demo", tmp_path, monkeypatch)
    assert networks["student"]["miou"] > max(0.5, mean(chance)), networks


@pytest.mark.long
def test_fastersegs_student_learns_the_streets(tmp_path, monkeypatch):
    networks, chance = finished("demo-fasterseg", tmp_path, monkeypatch)
    assert all(networks["student"][key] < networks["teacher"][key] for key in ("params", "gmac"))
    assert networks["student"]["miou"] > max(0.5, mean(chance) - 0.05), networks
