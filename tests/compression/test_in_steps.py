"""Cutting in steps: what each training is, goals in any runtime, goals out of reach, channels in multiples, a teacher."""

import pytest
import torch

from rtseg.compression import prune
from rtseg.compression.pruning import measure_in, prune_steps
from rtseg.compression.schedule import CompressConfig, compress, stage_training
from rtseg.core.errors import ConfigError
from rtseg.data import as_dataset, numbered_labels
from rtseg.models import create_model
from rtseg.training import TrainConfig

SIZE = (64, 96)
TINY = TrainConfig.parse(
    {
        "epochs": 2,
        "steps_per_epoch": 1,
        "batch_size": 2,
        "lr": 0.04,
        "schedule": {"kind": "polynomial"},
        "augmentation": None,
        "precision": "fp32",
        "channels_last": False,
        "compile": False,
    }
)


def pairs():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (2, *SIZE, 3), generator=generator).byte().numpy()
    return as_dataset([(image, (image[..., 0] > 128).astype("int64")) for image in images], classes=2)


def test_between_cuts_a_short_calm_training_after_the_last_the_whole_one():
    stages = [stage_training(TINY, CompressConfig(steps=4), n) for n in (1, 2, 3, 4)]
    assert [(s.epochs, s.lr, s.schedule.kind) for s in stages[:3]] == [(1, 0.01, "constant")] * 3
    assert stages[3] == TINY.model_copy(update={"seed": 3}) and [s.seed for s in stages] == [0, 1, 2, 3]
    assert stage_training(TINY, CompressConfig(steps=1), 1) == TINY
    even = CompressConfig(steps=2, recovery_epochs=None, final_epochs=7)
    assert stage_training(TINY, even, 1) == TINY and stage_training(TINY, even, 2).seed == 1
    assert stage_training(TINY, even, 2).epochs == 7


def test_the_whole_network_teaches(tmp_path):
    torch.manual_seed(0)
    how = CompressConfig(ratio=0.3, steps=2, example_size=SIZE, distill=True)
    result = compress(
        create_model("fastscnn", 2), pairs(), config=how, train=TINY, folder=tmp_path, name="fastscnn", progress=False
    )
    log = (tmp_path / "step_2" / "train" / "metrics.jsonl").read_text()
    assert '"distillation"' in log and result.table[-1]["parameters"] < result.table[0]["parameters"]


def test_an_unreachable_goal_is_found_before_training(tmp_path):
    how = CompressConfig(latency_ms=1.0, steps=3, example_size=SIZE)
    with pytest.raises(ConfigError, match="latency_ms=1 is out of reach"):
        compress(
            create_model("fastscnn", 2),
            pairs(),
            config=how,
            train=TINY,
            folder=tmp_path,
            name="fastscnn",
            measure=lambda net, shape: 2.0 + sum(p.numel() for p in net.parameters()) / 1e9,
            progress=False,
        )
    assert not list(tmp_path.glob("step_*/train"))


def test_a_reachable_goal_is_not_refused():
    torch.manual_seed(0)

    def count(net, shape):
        return float(sum(p.numel() for p in net.parameters()))

    network = create_model("fastscnn", 2)
    goal = 0.5 * count(network, None)
    steps = list(prune_steps(network, steps=2, latency_ms=goal, measure=count, example_size=SIZE))
    assert steps[-1].table[-1]["ms"] <= goal


def test_a_goal_is_measured_in_the_runtime_that_was_asked_for():
    found = measure_in("onnxruntime")(create_model("fastscnn", 2), (1, 3, *SIZE))
    assert found.runtime == "onnxruntime" and found.median_ms > 0


@pytest.mark.parametrize("multiple", [4, 8])
def test_channels_in_multiples(multiple):
    done = prune(create_model("fastscnn", 2), ratio=0.4, round_to=multiple, example_size=SIZE)
    assert done.plan.entries and all(
        entry.after % multiple == 0 or entry.after == entry.before for entry in done.plan.entries
    )


def test_a_searched_network_is_cut():
    from rtseg.models.fasterseg import STUDENT, FasterSeg

    torch.manual_seed(0)
    network = FasterSeg(STUDENT, 3)
    small = prune(network, ratio=0.3, example_size=SIZE, aux="drop").model.eval()
    assert small(torch.zeros(1, 3, *SIZE)).shape == (1, 3, *SIZE)
    assert sum(p.numel() for p in small.parameters()) < 0.7 * sum(p.numel() for p in network.parameters())


def test_a_searched_network_is_cut_by_the_command_and_read_again(tmp_path):
    from rtseg.cli.recipes import network_to_compress
    from rtseg.compression import load_pruned, save_pruned
    from rtseg.core.files import save_tensors, write_json
    from rtseg.models.fasterseg import STUDENT, FasterSeg

    torch.manual_seed(0)
    write_json(tmp_path / "arch.json", STUDENT.to_dict())
    whole = FasterSeg(STUDENT, 3)
    save_tensors(tmp_path / "whole.safetensors", whole.state_dict())
    network, how = network_to_compress(
        str(tmp_path / "arch.json"), numbered_labels(3), tmp_path / "whole.safetensors", None
    )
    small = prune(network, ratio=0.3, example_size=SIZE).model.eval()
    again = load_pruned(save_pruned(tmp_path / "small.safetensors", small, **how))
    image = torch.randn(1, 3, *SIZE)
    assert torch.equal(again(image), small(image))


@pytest.mark.parametrize("how", [{"round_to": 8}, {"ratio": 0.5}, {"latency_ms": 0.6}])
def test_smps_networks_are_cut_saved_and_read_again(how, tmp_path):
    """Through the registry, in multiples, to a goal in another runtime than PyTorch."""
    from rtseg.compression import load_pruned, save_pruned

    torch.manual_seed(0)
    network = create_model("smp", 3, decoder="fpn", encoder="resnet18")
    whole = sum(p.numel() for p in network.parameters())

    def share(net, shape):
        return sum(p.numel() for p in net.parameters()) / whole

    done = prune(network, example_size=SIZE, measure=share, **{"ratio": 0.4, **how})
    small, multiple = done.model.eval(), how.get("round_to", 1)
    assert all(e.after % multiple == 0 or e.after == e.before for e in done.plan.entries)
    assert done.table[-1]["ms"] <= how.get("latency_ms", 0.75)
    image = torch.randn(1, 3, *SIZE)
    assert torch.equal(load_pruned(save_pruned(tmp_path, small))(image), small(image))


def test_a_network_of_smp_itself_is_a_module_like_any_other(tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    from rtseg.compression import load_pruned, save_pruned

    torch.manual_seed(0)
    network = smp.create_model("linknet", "mobilenet_v2", classes=2, encoder_weights=None)
    small = prune(network, ratio=0.4, example_size=SIZE).model.eval()
    assert sum(p.numel() for p in small.parameters()) < 0.8 * sum(p.numel() for p in network.parameters())
    again = load_pruned(save_pruned(tmp_path, small), network=network)
    image = torch.randn(1, 3, *SIZE)
    assert torch.equal(again(image), small(image))


def test_a_searched_students_goal_is_found_unreachable_in_its_runtime_before_training():
    from rtseg.models.fasterseg import STUDENT, FasterSeg

    torch.manual_seed(0)
    with pytest.raises(ConfigError, match=r"latency_ms=1e-06 is out of reach: with 95% of the channels gone"):
        next(
            prune_steps(
                FasterSeg(STUDENT, 3),
                latency_ms=1e-6,
                steps=2,
                example_size=SIZE,
                measure=measure_in("onnxruntime", threads=1),
            )
        )
