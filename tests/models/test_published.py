"""The published FasterSeg: parameters, work, latency, decoding and numbers of its student."""

import json
import runpy

import numpy as np
import pytest
import torch

from rtseg.core.errors import ArtifactError, ConfigError
from rtseg.models import convert_checkpoint, count_macs, count_parameters, create_model
from rtseg.models.fasterseg import STUDENT, FasterSeg
from rtseg.search.decoding import decode
from rtseg.search.fasterseg import decode_branch, load_arch, load_latency_table, read_published
from rtseg.search.logits import ArchLogits
from rtseg.search.space import SearchSpace


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
    wrapped = {f"module.{k}": v for k, v in state.items()} | {
        "module.stem.0.conv.1.num_batches_tracked": torch.tensor(3)
    }
    other = convert_checkpoint("fasterseg", wrapped, source="fasterseg")
    assert plain.keys() == other.keys() and all(torch.equal(plain[k], other[k]) for k in plain)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("arms16.conv.0.weight"), "arms16.conv.0.weight"),
        (lambda s: s.update({"arms8.conv.0.weight": torch.zeros(1)}), "arms8.conv.0.weight"),
        (
            lambda s: s.update({"cells.4-0._op._op.conv1.weight": torch.zeros(64, 64, 3, 3)}),
            "cells.4-0._op._op.conv1.weight",
        ),
        (lambda s: s.update({"heads16.conv_1x1.bias": torch.zeros(19)}), "heads16.conv_1x1.weight"),
        (lambda s: s.pop("ffm.channel_attention.1.conv.weight"), "ffm.channel_attention.1.conv.weight"),
    ],
)
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
        state = state | {
            f"{name}.conv_3x3.conv.weight": torch.ones(c, c, 3, 3),
            f"{name}.conv_1x1.weight": torch.ones(19, c, 1, 1),
            f"{name}.conv_1x1.bias": torch.ones(19),
        }
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
        assert (branch.last, list(branch.ops), list(branch.scales), list(branch.widths)) == tuple(
            wanted[k] for k in ("last", "ops", "path", "widths")
        )
    assert [[list(g) for g in layer] for layer in STUDENT.groups()] == facts["groups"]


def test_search_results_load(shared):
    for index, role, widths in ((0, "teacher", 1), (1, "student", 5)):
        found = load_arch(shared / f"fasterseg/arch_{index}.pt")
        assert (found.role, found.logits.layers, found.logits.operators, found.logits.widths) == (role, 16, 5, widths)
        assert found.pair == "12"
        assert found.miou["12"] == pytest.approx(0.0623358748) and found.latency_ms["02"] == pytest.approx(6.2604673916)
        assert not any(t.requires_grad for t in found.logits.tensors().values())


def test_student_comes_from_its_file(shared):
    found = load_arch(shared / "fasterseg/arch_1.pt").architecture()
    assert found == STUDENT
    network = FasterSeg(found, 19)
    assert (count_parameters(network), count_parameters(network, training=True)) == (3_454_643, 4_385_689)


@pytest.mark.parametrize(
    ("index", "pair", "wanted"), [(1, "12", 5.70184), (1, "02", 5.79029), (0, "12", 17.94300), (0, "02", 18.86359)]
)
def test_published_latencies(shared, index, pair, wanted):
    table = load_latency_table(shared / "fasterseg/latency_lookup_table.npy")
    arch = load_arch(shared / f"fasterseg/arch_{index}.pt").architecture(pair)
    assert table.predict(arch) == pytest.approx(wanted, abs=5e-6)


def test_published_fault_gives_the_published_figures(shared):
    table = load_latency_table(shared / "fasterseg/latency_lookup_table.npy", published_fault=True)
    found = load_arch(shared / "fasterseg/arch_1.pt")
    for pair, wanted in (("12", 6.41398), ("02", 6.26047)):
        got = table.predict(found.architecture(pair))
        assert got == pytest.approx(found.latency_ms[pair], abs=1e-9) == pytest.approx(wanted, abs=5e-6)


def test_embedded_student_costs_the_published_time(shared):
    table = load_latency_table(shared / "fasterseg/latency_lookup_table.npy")
    assert len(table.entries) == 667 and table.header.size == (1024, 2048)
    assert table.predict(STUDENT) == pytest.approx(5.70184, abs=5e-6)


def test_decode_examples(shared):
    examples = json.loads((shared / "fasterseg/decode_examples.json").read_text())
    assert len(examples) == 24
    for example in examples:
        logits = ArchLogits.random(example["layers"], 5, 5, torch.Generator().manual_seed(example["seed"]))
        branch = decode_branch(logits, example["last"], example["ignore_skip"])
        assert [list(v) for v in (branch.ops, branch.scales, branch.widths)] == [
            example[k] for k in ("ops", "path", "widths")
        ], example["seed"]


def test_wrong_files(shared, tmp_path):
    (tmp_path / "arch.pt").write_bytes(b"PK nothing")
    torch.save({"alpha_2_0": torch.zeros(1)}, tmp_path / "set2.pt")
    np.save(tmp_path / "plain.npy", np.zeros(3))
    np.save(tmp_path / "list.npy", np.array([{"a": "b"}, 2], dtype=object), allow_pickle=True)
    for read in (
        lambda: load_arch(tmp_path / "arch.pt"),
        lambda: load_arch(tmp_path / "set2.pt"),
        lambda: load_arch(tmp_path / "missing.pt"),
        lambda: load_latency_table(tmp_path / "plain.npy"),
        lambda: load_latency_table(tmp_path / "list.npy"),
    ):
        with pytest.raises(ArtifactError) as error:
            read()
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="pair"):
        load_arch(shared / "fasterseg/arch_1.pt").architecture("01")


def test_missing_logits_are_named():
    logits = {k.replace("_", "_1_", 1): v for k, v in ArchLogits.random(16).tensors().items()}
    logits |= {"mIoU02": 0.1, "mIoU12": 0.1, "latency02": 1.0, "latency12": 2.0}
    assert read_published(logits, "x").pair == "02"
    del logits["beta_1_2"]
    with pytest.raises(ArtifactError, match="beta_2"):
        read_published(logits, "x")


def test_own_decoding_with_the_published_table(shared):
    """On the published logits, under the published student's own latency, the exact decoder finds a network that they like better."""
    table = load_latency_table(shared / "fasterseg/latency_lookup_table.npy")
    found = load_arch(shared / "fasterseg/arch_1.pt")
    ceiling = table.predict(found.architecture())
    got = decode(found.logits, SearchSpace(), latency=table.latency, size=table.header.size, ceiling_ms=ceiling)
    assert got.latency_ms <= ceiling + 1e-9 and got.latency_ms == pytest.approx(table.predict(got.arch))
    teacher = decode(
        load_arch(shared / "fasterseg/arch_0.pt").logits,
        SearchSpace(),
        role="teacher",
        latency=table.latency,
        size=table.header.size,
    )
    assert teacher.latency_ms == pytest.approx(table.predict(teacher.arch))
