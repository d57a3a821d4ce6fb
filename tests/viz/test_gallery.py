"""The table of all networks, in Python and on the command line; and checkpoints that say by their keys where they come from."""

import pytest
import torch
from typer.testing import CliRunner

from rtseg.core.errors import ArtifactError, ConfigError
from rtseg.models import create_model, list_models
from rtseg.models.checkpoints import CONVERTERS, fit_checkpoint, list_sources
from rtseg.models.gallery import gallery
from rtseg.cli.main import app
from rtseg.cli.options import build_network


def test_rows_are_complete_and_sorted():
    rows = gallery(sort="gmacs")
    known = [r["gmacs"] for r in rows if r["gmacs"] is not None]
    assert {r["name"] for r in rows} == set(list_models()) and known == sorted(known) and min(known) > 0.5
    assert all(
        r["gmacs"] <= 5 and r["params"] <= 1 and r["year"] >= 2019
        for r in gallery(max_gmacs=5, max_params=1, since=2019)
    )


@pytest.mark.parametrize("wrong", [dict(sort="speed"), dict(max_params=0)])
def test_wrong_requests_are_refused(wrong):
    with pytest.raises(ConfigError):
        gallery(**wrong)


def test_command_line_prints_the_same_table():
    out = CliRunner().invoke(app, ["models", "--sort", "params", "--max-params", "0.3"]).output
    assert "cgnet" in out and "fssnet" in out and "segnet" not in out
    one = CliRunner().invoke(app, ["models", "bisenetv2"]).output
    assert "2272688" in one and "2004.02147" in one


def test_a_foreign_checkpoint_is_recognised_by_its_keys():
    network, other = create_model("fastscnn", 19), create_model("fastscnn", 19)
    names = CONVERTERS.get("fastscnn/zh320")(network).names
    theirs = {f"module.{names[k]}": v for k, v in network.state_dict().items() if k in names}
    assert list_sources("fastscnn") == ["zh320"] and fit_checkpoint("fastscnn", theirs, other) == "zh320"
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.eval()(x), other.eval()(x))
    theirs.pop("module.classifier.2.0.weight")
    with pytest.raises(ArtifactError, match=r"classifier\.2\.0\.weight"):
        fit_checkpoint("fastscnn", theirs, other)


def test_a_published_file_and_options_on_the_command_line(tmp_path):
    network = create_model("stdc", 19, encoder="stdc2")
    names = CONVERTERS.get("stdc/zh320")(network).names
    torch.save(
        {"state_dict": {names[k]: v for k, v in network.state_dict().items() if k in names}}, tmp_path / "stdc2.pth"
    )
    loaded = build_network("stdc", 19, tmp_path / "stdc2.pth", ["encoder=stdc2"])
    assert torch.equal(loaded.state_dict()["head.classify.weight"], network.state_dict()["head.classify.weight"])
    with pytest.raises(ArtifactError):
        build_network("stdc", 19, tmp_path / "stdc2.pth")
    with pytest.raises(ConfigError, match="encoder"):
        build_network("stdc", 19, None, ["encodr=stdc2"])


def test_evaluate_wants_one_file_of_weights(tmp_path):
    result = CliRunner().invoke(app, ["evaluate", "--model", "fastscnn", "--data", str(tmp_path)])
    assert result.exit_code != 0
