"""Networks by lot: several of one latency, all different, kept with their checksums."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rtseg.core.errors import ArtifactError, ConfigError
from rtseg.core.files import read_json, sha256_file, write_json
from rtseg.core.results import TrainedTwin, NetworkSummary, RunResults
from rtseg.evaluation.evaluator import save_trained
from rtseg.runs.config import load_preset
from rtseg.runs.lots import draw_random
from rtseg.runs.networks import list_twins, load_role, new_network
from rtseg.runs.report import verdict


class Table:
    """Every architecture has as many milliseconds as cells."""

    def predict(self, arch):
        return float(sum(len(branch.ops) for branch in arch.branches))


@pytest.fixture
def stage(tmp_path):
    return SimpleNamespace(
        config=load_preset("smoke").with_values({"random.tolerance": 0.5}),
        input=lambda name: tmp_path / name,
        run=SimpleNamespace(path=lambda name: tmp_path / name),
    )


def test_twins_differ_and_the_first_is_what_one_alone_would_be(stage):
    example = stage.config.space.sample(torch.Generator().manual_seed(1))
    target, lasts = Table().predict(example), tuple(branch.last for branch in example.branches)
    (alone,) = draw_random(stage, Table(), example)
    several = draw_random(stage, Table(), example, count=4)
    assert several[0] == alone and len({arch.id for arch in several}) == 4
    assert all(abs(Table().predict(arch) / target - 1) <= 0.5 for arch in several)
    assert all(tuple(b.last for b in arch.branches) == lasts for arch in several)


def test_a_space_without_so_many_networks_says_so(stage, monkeypatch):
    only, student = (stage.config.space.sample(torch.Generator().manual_seed(seed)) for seed in (1, 2))
    said = f"1 different architectures of {Table().predict(student):.2f} ms were found, random.twins asks for 2"
    monkeypatch.setattr("rtseg.runs.lots.sample_within", lambda *args, **words: only)
    with pytest.raises(ConfigError, match=said):
        draw_random(stage, Table(), student, count=2)


def write_twin(stage, arch, number=2):
    network = new_network(arch, 5, seed=0)
    path = stage.run.path(f"random/twin-{number}.safetensors")
    path.parent.mkdir(exist_ok=True)
    save_trained(path, network.state_dict(), epoch=3, which="best", seed=0)
    twin = TrainedTwin(f"random-{number}", arch.to_dict(), f"random/{path.name}", sha256_file(path))
    write_json(stage.run.path("random/twins.json"), [twin.to_dict()])
    return network, path


def test_a_twin_comes_back_and_another_file_in_its_place_does_not(stage):
    arch = stage.config.space.sample(torch.Generator().manual_seed(2))
    network, path = write_twin(stage, arch)
    assert list_twins(stage) == ["random-2"]
    loaded, origin = load_role(stage, "random-2", 5)
    assert loaded.arch == arch and origin.epoch == 3 and not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), loaded.parameters(), strict=True))
    with pytest.raises(ConfigError, match="random-2"):
        load_role(stage, "random-7", 5)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="not the one that was trained: run stage 'random' again"):
        load_role(stage, "random-2", 5)
    assert read_json(stage.run.path("random/twins.json"))[0]["name"] == "random-2"


def test_the_verdict_compares_with_the_mean_of_all_of_them():
    scores = {"teacher": 0.7, "student": 0.6, "random": 0.5, "random-2": 0.58, "random-3": 0.54}
    networks = tuple(
        NetworkSummary(name, miou, 0.9, 1, 1, 2.0, 2.1, (2.0, 2.2), {}, None, "ab12") for name, miou in scores.items()
    )
    results = RunResults(dataset="scenes", split="val", images=4, networks=networks)
    said = verdict(results)
    assert "0.060 above the mean of 3 random architectures" in said and "best of them reaches 0.580" in said
    said = verdict(replace(results, networks=networks[:3]))
    assert "0.100 above a random architecture of" in said and "best of them" not in said
