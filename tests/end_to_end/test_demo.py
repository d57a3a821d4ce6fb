"""The README's promise: the embedded streets are learned, searched and shipped in one command."""

import json

import pytest

from rtseg.runs.config import load_preset
from rtseg.runs.runner import run


@pytest.mark.slow
def test_the_demo_student_learns_the_streets(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = run(
        load_preset("demo").with_values({"latency.accept_noisy": True}),
        tmp_path / "run",
        say=lambda line: None,
        show_progress=False,
    )
    networks = {row["name"]: row for row in json.loads((tmp_path / "run/results.json").read_text())["networks"]}
    assert result.report.stat().st_size > 1_000_000
    assert networks["student"]["miou"] > 0.5, networks["student"]
    assert networks["student"]["params"] < networks["teacher"]["params"]
    assert networks["student"]["predicted_ms"] < networks["teacher"]["predicted_ms"]
