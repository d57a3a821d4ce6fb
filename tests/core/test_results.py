"""What a run found: values that files keep, old records among them, flattened in one place."""

import json

import pytest

from rtseg.core.errors import ArtifactError
from rtseg.core.results import Deployment, Evaluation, NetworkSummary, RunResults, ScoredNetwork
from rtseg.core.values import EvalReport, Latency, ScoreOrigin

ORIGIN = ScoreOrigin(7, "ema", 1, "ab" * 32, "none")
CLOCK = Latency(4.0, 3.5, 4.5, 9, (2, 3, 64, 128), "CPU", "openvino", "bf16", 2)
REPORT = EvalReport(0.5, (1.0, 0.0, None), ("road", "pole", "bus"), 0.9, ((9, 0, 0),) * 3, 4, "x", "val", origin=ORIGIN)
NETWORK = ScoredNetwork("random-2", "ab12", REPORT, 1000, 0.25, 3.0, CLOCK)
EVALUATION = Evaluation("x", "val", 4, (64, 128), (NETWORK,), verdict="It is.")
DEPLOYMENT = Deployment({"class_agreement": 0.99}, 3.0, "torch", CLOCK, {"openvino": CLOCK, "torch": CLOCK})


@pytest.mark.parametrize("value", [NETWORK, NETWORK.summary, EVALUATION, DEPLOYMENT, DEPLOYMENT.summary])
def test_values_come_back_from_their_files(value, tmp_path):
    assert type(value).load(value.save(tmp_path / "value.json")) == value


def test_one_network_is_flattened_in_one_place():
    row = NETWORK.summary
    assert (row.miou, row.measured_ms, row.quartiles_ms, row.runtime) == (0.5, 4.0, (3.5, 4.5), "openvino")
    assert row.iou == {"road": 1.0, "pole": 0.0, "bus": None} and row.role == "random"
    assert row.row["frames/s"] == 250 and row.row["weights"] == "ema, epoch 7" and row.row["seed"] == 1
    assert row.point == {"name": "random-2", "role": "random", "ms": 4.0, "miou": 0.5}


def test_a_prediction_stands_beside_the_runtime_it_is_for():
    assert [(row["predicted ms"], row["error"]) for row in DEPLOYMENT.rows] == [(None, None), (3.0, "-25.0%")]
    assert DEPLOYMENT.summary.fps == 500  # two images at once


def test_results_leave_out_what_is_not_known_and_say_which_key_is_wrong(tmp_path):
    young = RunResults("toy", config={"seed": 1})
    assert young.to_dict() == {"name": "toy", "config": {"seed": 1}, "hero": "student"}
    assert RunResults.load(young.save(tmp_path / "results.json")) == young
    with pytest.raises(ArtifactError, match="did you mean 'networks'"):
        RunResults.from_dict({"name": "toy", "networs": []})
    with pytest.raises(ArtifactError, match="has no field 'speed'"):
        NetworkSummary.from_dict(NETWORK.summary.to_dict() | {"speed": 1})


@pytest.mark.parametrize("name", ["demo-fasterseg", "camvid-cpu"])
def test_committed_records_are_read_whole(root, name):
    text = json.loads((root / f"results/{name}/results.json").read_text())
    results = RunResults.from_dict(text)
    again = json.loads(json.dumps(results.to_dict()))
    assert again.pop("hero") == "student" and {k: v for k, v in again.items() if k != "networks"} == {
        k: v for k, v in text.items() if k != "networks"
    }
    assert [{"runtime": None} | row for row in text["networks"]] == again["networks"]
