"""The frontier: every lever makes a network that ships, what is done is not done again, and the page says what to ship."""

from dataclasses import replace

import pytest
import torch

from rtseg.core.errors import ConfigError
from rtseg.data.datasets import open_dataset
from rtseg.data.scenes import make_scenes
from rtseg.runs.frontier import Frontier
from rtseg.runs.levers import NotTried, Shrunken, Workshop, larger_network, run_frontier, zoo_latencies
from rtseg.layers.blocks import resize
from rtseg.models import create_model
from rtseg.training.recipes import load_recipe


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Two networks, drawn streets, a step or two of training, a budget between the two."""
    torch.set_num_threads(1)
    root = make_scenes(tmp_path_factory.mktemp("scenes"), counts={"train": 8, "val": 3, "test": 4}, size=(64, 128))
    splits = {split: open_dataset("synthetic", root, split) for split in ("train", "val", "test")}
    recipe = load_recipe("camvid-short", batch_size=4, augmentation={"crop": [64, 128]}, loss={"class_weights": None})
    shop = Workshop(
        **splits,
        recipe=recipe,
        folder=tmp_path_factory.mktemp("frontier"),
        budget_ms=1.0,
        minutes=0.001,
        networks=("fastscnn", "contextnet"),
        seconds=0.2,
    )
    ms = zoo_latencies(shop)
    return replace(shop, budget_ms=(ms["fastscnn"] * ms["contextnet"]) ** 0.5)


def pull(shop, levers):
    """A frontier of some levers, checked as every frontier has to be; its points by lever."""
    frontier = run_frontier(shop, levers, command=lambda lever: f"rtseg frontier --levers {lever}")
    points = {point.lever: point for point in frontier.points}
    assert list(points) == list(levers) and Frontier.load(shop.folder / "frontier.json") == frontier
    assert all(p.low <= p.miou <= p.high and p.q1_ms <= p.ms <= p.q3_ms for p in frontier.tried)
    assert all(point.command == f"rtseg frontier --levers {name}" for name, point in points.items())
    return points


def test_levers_make_what_ships_and_are_not_pulled_twice(shop):
    """Scores with intervals, times, words; nothing is trained twice, and the search says what it lacks."""
    levers = ("longer", "distilled", "searched", "int8", "smaller")
    points = pull(shop, levers)
    assert [name for name, point in points.items() if not point.tried] == ["searched"]
    assert "--table" in points["searched"].reason and "taught by" in points["distilled"].network
    stamps = {path: path.stat().st_mtime_ns for path in shop.folder.rglob("*.safetensors")}
    again = pull(shop, levers[:2])
    assert {path: path.stat().st_mtime_ns for path in shop.folder.rglob("*.safetensors")} == stamps
    assert [again[name].miou for name in again] == [points[name].miou for name in again]


@pytest.mark.long
def test_pruning_meets_the_budget(shop):
    """Cutting to a measured latency exports the network a dozen times."""
    point = pull(shop, ["pruned"])["pruned"]
    assert "of its weights" in point.network and point.miou is not None


def test_a_budget_that_nothing_meets_is_refused_before_training(shop, tmp_path):
    hurried = replace(shop, budget_ms=1e-4, folder=tmp_path)
    (tmp_path / "latencies-1.json").write_text((shop.folder / "latencies-1.json").read_text())
    with pytest.raises(ConfigError, match="no network within 0.0001 ms"):
        run_frontier(hurried)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["identity.json", "latencies-1.json"]


def test_without_a_larger_network_there_is_nothing_to_prune(shop):
    with pytest.raises(NotTried, match="there is no larger one"):
        larger_network(replace(shop, budget_ms=1e6))


def test_smaller_pictures_give_whole_logits():
    """What the network inside says of the small picture, enlarged."""
    network = create_model("contextnet", 5).eval()
    image = torch.randn(1, 3, 128, 160)
    with torch.inference_mode():
        inside, whole = network.predict(resize(image, (64, 80))), Shrunken(network, 0.5).eval()(image)
    enlarged = resize(getattr(inside, "logits", inside), (128, 160), align_corners=network.align_corners)
    assert whole.shape == (1, 5, 128, 160) and torch.equal(whole, enlarged)
