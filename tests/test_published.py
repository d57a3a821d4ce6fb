"""The published FasterSeg: parameters, work, latency, decoding and numbers of its student."""

import json
import runpy

import numpy as np
import pytest
import torch

from rtseg.core.errors import ArtifactError
from rtseg.models import convert_checkpoint, count_macs, count_parameters, create_model
from rtseg.models.fasterseg import STUDENT, FasterSeg


@pytest.fixture(scope="module")
def golden(shared):
    """(reference output, published keys and their weights, the input), made as zoo/golden.py says."""
    make = runpy.run_path(str(shared / "zoo/golden.py"))
    keys = json.loads((shared / "zoo/keys/fasterseg_student.json").read_text())["checkpoint_order"]
    with np.load(shared / "zoo/golden/fasterseg_student.npz") as stored:
        state = make["golden_state"](keys, "a")
        state |= {k[3:]: torch.from_numpy(stored[k]) for k in stored.files if k.startswith("bn/")}
        return torch.from_numpy(stored["out0"]), state, make["golden_input"]((1, 3, 256, 512), "a")


def test_student_gives_the_reference_output(golden):
    wanted, state, image = golden
    network = create_model("fasterseg", 19).eval()
    network.load_weights(convert_checkpoint("fasterseg", state, source="fasterseg"))
    with torch.inference_mode():
        out = network(image)[:, :, ::8, ::8]
    assert out.shape == wanted.shape
    assert ((out - wanted).norm() / wanted.norm()).item() < 1e-4


def test_prefix_and_counters_are_tolerated(golden):
    _, state, _ = golden
    plain = convert_checkpoint("fasterseg", state, source="fasterseg")
    wrapped = {f"module.{k}": v for k, v in state.items()} | {"module.stem.0.conv.1.num_batches_tracked": torch.tensor(3)}
    other = convert_checkpoint("fasterseg", wrapped, source="fasterseg")
    assert plain.keys() == other.keys() and all(torch.equal(plain[k], other[k]) for k in plain)


@pytest.mark.parametrize(("change", "named"), [
    (lambda s: s.pop("arms16.conv.0.weight"), "arms16.conv.0.weight"),
    (lambda s: s.update({"arms8.conv.0.weight": torch.zeros(1)}), "arms8.conv.0.weight"),
    (lambda s: s.update({"cells.4-0._op._op.conv1.weight": torch.zeros(64, 64, 3, 3)}), "cells.4-0._op._op.conv1.weight"),
    (lambda s: s.update({"heads16.conv_1x1.bias": torch.zeros(19)}), "heads16.conv_1x1.weight"),
    (lambda s: s.pop("ffm.channel_attention.1.conv.weight"), "ffm.channel_attention.1.conv.weight"),
])
def test_keys_that_do_not_fit_are_named(golden, change, named):
    state = dict(golden[1])
    change(state)
    with pytest.raises(ArtifactError) as error:
        convert_checkpoint("fasterseg", state, source="fasterseg")
    assert named in str(error.value) and "\n" not in str(error.value)


def test_training_checkpoint_brings_its_auxiliary_heads(golden):
    _, state, _ = golden
    shapes = {"heads16": 192, "heads32": 256}
    for name, c in shapes.items():
        state = state | {f"{name}.conv_3x3.conv.weight": torch.ones(c, c, 3, 3), f"{name}.conv_1x1.weight": torch.ones(19, c, 1, 1),
                         f"{name}.conv_1x1.bias": torch.ones(19)}
        state |= {f"{name}.conv_3x3.bn.{p}": torch.ones(c) for p in ("weight", "bias", "running_mean", "running_var")}
    converted = convert_checkpoint("fasterseg", state, source="fasterseg")
    assert converted["aux_heads.x16.gather.conv.weight"].shape == (192, 192, 3, 3)
    without = convert_checkpoint("fasterseg", state, source="fasterseg", aux=False)
    assert not any(k.startswith("aux_heads") for k in without)


def test_counts(shared):
    facts = json.loads((shared / "fasterseg/student.json").read_text())["student_21"]
    network = FasterSeg(STUDENT, 19)
    assert count_parameters(network) == facts["params_inference"] == 3_454_643
    assert count_parameters(network, training=True) == facts["params_training"] == 4_385_689
    assert count_parameters(FasterSeg(STUDENT, 19, aux=False), training=True) == 3_454_643
    assert count_macs(network, (1, 3, 1024, 2048)) / 1e9 == pytest.approx(facts["gmacs_1024x2048"], abs=1e-9)


def test_embedded_student_is_the_published_one(shared):
    facts = json.loads((shared / "fasterseg/student.json").read_text())["student_21"]
    for branch, wanted in zip(STUDENT.branches, facts["branches"], strict=True):
        assert (branch.last, list(branch.ops), list(branch.scales), list(branch.widths)) == tuple(wanted[k] for k in ("last", "ops", "path", "widths"))
    assert [[list(g) for g in layer] for layer in STUDENT.groups()] == facts["groups"]
