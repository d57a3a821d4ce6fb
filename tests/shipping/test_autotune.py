"""Autotune: what is tried, refused, timed, chosen, kept and shipped. No test looks at how long something took."""

from importlib import import_module
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rtseg.shipping.candidates as candidates
from rtseg.core.errors import ConfigError, DataError
from rtseg.core.files import read_json
from rtseg.shipping.autotuning import EAGER, autotune, ship, time_in_turns
from rtseg.shipping.candidates import BASELINE, Builder, Candidate, list_candidates, network_key, why_not
from rtseg.shipping.cards import load_card
from rtseg.models.contract import SegNetwork

SHAPE = (1, 3, 64, 96)
module = import_module("rtseg.shipping.autotuning")  # the room hands on a function of the same name
ORT, ROUGH, INT8 = (
    Candidate("onnxruntime"),
    Candidate("onnxruntime", argmax="before"),
    Candidate("onnxruntime", "int8", method="onnxruntime"),
)
FORMS = [BASELINE, EAGER, ORT, ROUGH]


class Strongest(SegNetwork):
    """The strongest colour of every cell of 4 x 4 pixels."""

    def __init__(self):
        super().__init__(3)
        self.mix = nn.Conv2d(3, 3, 3, stride=4, padding=1)
        with torch.no_grad():
            self.mix.weight.zero_()
            self.mix.weight[range(3), range(3)] = 1.0
            self.mix.bias.copy_(torch.tensor([0.0, 0.01, 0.02]))

    def predict(self, x):
        return self.mix(x)


@pytest.fixture(scope="module")
def traced():
    return {}


@pytest.fixture(autouse=True)
def trace_once(monkeypatch, traced):
    """Tracing a network takes a second: each graph is traced once for all tests."""

    def remembered(trace):
        def call(source, shape, **more):
            key = (
                trace.__name__,
                network_key(
                    source,
                    shape,
                    more,
                    type(source).__name__,
                    getattr(source, "argmax", ""),
                    getattr(source, "upsampling", ""),
                ),
            )
            return traced.setdefault(key, None) or traced.__setitem__(key, trace(source, shape, **more)) or traced[key]

        return call

    for name in ("to_onnx", "float_graph"):
        monkeypatch.setattr(f"rtseg.shipping.candidates.{name}", remembered(getattr(candidates, name)))


@pytest.fixture(scope="module")
def network():
    return Strongest()


@pytest.fixture(scope="module")
def pairs():
    small = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 4, 6)).astype(np.float32))
    images = F.interpolate(small, size=SHAPE[2:], mode="bilinear").permute(0, 2, 3, 1).to(torch.uint8).numpy()
    return [(image, image.argmax(2).astype(np.uint8)) for image in images]


def tune(network, pairs, **more):
    return autotune(
        network,
        pairs,
        **{"shape": SHAPE, "threads": 1, "candidates": FORMS, "rounds": 2, "seconds": 5, "switches": False} | more,
    )


@pytest.fixture
def clock(monkeypatch):
    """Timings that are written down instead of taken: milliseconds by the name of the form."""
    known = {}
    monkeypatch.setattr(
        module, "time_in_turns", lambda calls, **_: {name: [known.get(name, 50.0)] * 3 for name in calls}
    )
    return known


@pytest.mark.slow
def test_the_fastest_that_is_faithful_is_chosen(network, pairs, clock):
    clock.update({BASELINE.name: 20.0, EAGER.name: 60.0, ORT.name: 10.0, ROUGH.name: 1.0})
    tuned = tune(network, pairs)
    assert tuned.best.candidate == ORT and tuned.speedup() == 2.0 and tuned.speedup(EAGER) == 6.0
    rough = tuned.row(ROUGH)
    assert (
        rough.status == "refused"
        and rough.median_ms is None
        and rough.agreement < 0.99
        and "of the labels agree" in rough.reason
    )
    assert (
        tuned.best.miou_before == pytest.approx(tuned.best.miou_after, abs=1e-3) and 0.5 < tuned.best.miou_before <= 1
    )
    assert network.training, "the network is handed back as it was"


def test_it_is_never_slower_than_the_plain_export(network, pairs, clock):
    clock.update({BASELINE.name: 5.0, EAGER.name: 60.0, ORT.name: 10.0})
    assert tune(network, pairs).best.candidate == BASELINE
    assert tune(network, pairs, files_only=True).best.candidate == ORT, "a file from pixels to labels was asked for"


def test_wider_limits_let_the_rough_form_pass(network, pairs, clock):
    clock.update({ROUGH.name: 1.0})
    assert tune(network, pairs, min_agreement=0.5, max_drop=0.5).best.candidate == ROUGH
    tight = tune(network, pairs, min_agreement=0.5, max_drop=0.0)
    assert tight.row(ROUGH).status == "refused" and "mIoU falls by" in tight.row(ROUGH).reason


def test_a_clip_says_how_steady_the_chosen_form_is(network, pairs, clock, tmp_path):
    clock.update({ROUGH.name: 1.0})
    for number, (image, _) in enumerate(pairs):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image[..., ::-1])
    tuned = tune(network, pairs, min_agreement=0.5, max_drop=0.5, files_only=True, clip=tmp_path)
    labels = [tuned.runtime(image) for image, _ in pairs]
    wanted = np.mean([np.mean(a == b) for a, b in pairwise(labels)])
    scores = tuned.facts["clip_scores"]
    assert scores["shipped"]["stability"] == pytest.approx(wanted) and scores["network"]["frames"] == len(pairs)
    assert tune(network, pairs).facts["clip_scores"] == {}
    (tmp_path / "none").mkdir()
    tried: list[str] = []
    with pytest.raises(DataError, match="holds no frame"):
        tune(network, pairs, clip=tmp_path / "none", say=tried.append)
    assert tried == []


def test_int8_has_to_earn_its_place(network, pairs, clock):
    clock.update({ORT.name: 10.0, INT8.name: 30.0})
    forms = [BASELINE, ORT, INT8]
    slower = tune(network, pairs, candidates=forms, min_agreement=0.9, max_drop=0.1)
    assert slower.int8_verdict() == f"int8 is slower here: {INT8.name} takes 30.00 ms, {ORT.name} 10.00 ms"
    clock[INT8.name] = 5.0
    assert (
        tune(network, pairs, candidates=forms, min_agreement=0.9, max_drop=0.1).int8_verdict()
        == f"int8 has earned its place: {INT8.name} takes 5.00 ms"
    )
    past = tune(network, pairs, candidates=forms, min_agreement=1.0, max_drop=0.0)
    assert past.int8_verdict().startswith("int8 is past the limits") and "of the labels agree" in past.int8_verdict()
    assert tune(network, pairs).int8_verdict() == "int8 was not tried: it was not asked for"


@pytest.mark.parametrize("faster,kept", [(0.9, True), (0.99, False)])
def test_a_switch_is_kept_where_it_helps(network, pairs, clock, monkeypatch, faster, kept):
    pytest.importorskip("openvino")
    vino = Candidate("openvino")
    pinned = Candidate("openvino", properties={"ENABLE_CPU_PINNING": True})
    clock.update({vino.name: 10.0, pinned.name: 10.0 * faster})
    best = tune(network, pairs, candidates=[BASELINE, vino], switches=True).best
    assert (best.candidate == pinned) is kept and best.median_ms == pytest.approx(10.0 * faster if kept else 10.0)


def test_a_killed_run_goes_on(network, pairs, tmp_path, monkeypatch):
    forms = [BASELINE, ROUGH, INT8]
    first = tune(network, pairs, candidates=forms, folder=tmp_path, min_agreement=0.95, max_drop=0.1)
    files = sorted(p.name for p in tmp_path.iterdir())
    assert "autotune.json" in files and "rows.json" in files and sum(name.endswith(".onnx") for name in files) == 1
    judged = []
    whole = module.Trial.judge
    monkeypatch.setattr(
        module.Trial,
        "judge",
        lambda self, candidate, builder: judged.append(candidate) or whole(self, candidate, builder),
    )
    monkeypatch.setattr("rtseg.shipping.candidates.quantize", lambda *_, **__: pytest.fail("it was quantised again"))
    again = tune(network, pairs, candidates=forms, folder=tmp_path, min_agreement=0.95, max_drop=0.1)
    refused = [row.candidate for row in first.rows if row.status == "refused"]
    assert ROUGH in refused and judged == [c for c in forms if c not in refused]
    assert [row.agreement for row in again.rows] == [row.agreement for row in first.rows]


def test_other_weights_are_another_network(network, pairs, tmp_path):
    tune(network, pairs, folder=tmp_path)
    changed = Strongest()
    with torch.no_grad():
        changed.mix.bias.add_(0.1)
    assert network_key(changed) != network_key(network)
    assert read_json(tmp_path / "rows.json")["key"] != (
        tune(changed, pairs, folder=tmp_path) and read_json(tmp_path / "rows.json")["key"]
    )


def test_what_is_absent_stays_in_the_table(network, pairs, monkeypatch):
    monkeypatch.setattr(
        "rtseg.shipping.candidates.why_absent",
        lambda name: "runtime 'openvino' needs openvino, which is not installed" if name == "openvino" else None,
    )
    tuned = tune(network, pairs, candidates=[BASELINE, Candidate("openvino")])
    assert tuned.rows[1].status == "absent" and "not installed" in tuned.table()[1]["verdict"]


def test_a_runtime_that_fails_stays_in_the_table(network, pairs, monkeypatch):
    whole = Builder.runtime

    def runtime(self, candidate):
        if candidate == ORT:
            raise ConfigError("this graph is not for me")
        return whole(self, candidate)

    monkeypatch.setattr(Builder, "runtime", runtime)
    tuned = tune(network, pairs)
    assert (tuned.row(ORT).status, tuned.row(ORT).reason) == (
        "failed",
        "this graph is not for me",
    ) and tuned.best.candidate in (BASELINE, EAGER)


def test_shipped_is_what_was_chosen(network, pairs, tmp_path):
    tuned = tune(network, pairs, files_only=True)
    card = ship(tuned, tmp_path / "net.onnx", model="strongest", labels=3, source_sha256="00" * 32)
    assert (
        load_card(tmp_path / "net.onnx") == card
        and card.runtime == tuned.best.candidate.runtime
        and card.shape == SHAPE
    )
    assert (
        card.agreement == tuned.best.agreement
        and card.latency.runs == tuned.best.runs
        and card.latency.includes[0] == "preprocessing"
    )
    assert read_json(tmp_path / "net-table.json")["chosen"] == tuned.best.candidate.name
    plain = tune(network, pairs, candidates=[BASELINE])
    with pytest.raises(ConfigError, match="files_only"):
        ship(plain, tmp_path / "x.onnx", model="strongest", labels=3)


def test_the_list_of_candidates():
    names = [c.name for c in list_candidates(argmax=("after", "half", "before"))]
    assert len(names) == len(set(names)) and {
        "openvino bf16 (products)",
        "openvino int8 by nncf (products)",
        "onnxruntime int8 by onnxruntime (products)",
    } <= set(names)
    assert [c.name for c in list_candidates(runtimes=["onnxruntime"], precisions=("fp32",))] == [
        BASELINE.name,
        EAGER.name,
        ORT.name,
        "onnxruntime fp32 (resize)",
    ]
    assert all(
        c.runtime in ("torch", "torch-compile", "cuda-graphs", "onnxruntime-cuda", "tensorrt")
        for c in list_candidates("cuda")
    )
    assert why_not(Candidate("torch", "fp4")) == "runtime 'torch' has no precision 'fp4'"


@pytest.mark.parametrize(
    "given,error,message",
    [
        ({"max_drop": 5}, ConfigError, "shares between"),
        ({"shape": (2, 3, 64, 96)}, ConfigError, "one image at a time"),
        ({"candidates": [ROUGH]}, ConfigError, "no form passed"),
        ({"candidates": [BASELINE], "files_only": True}, ConfigError, "no form that is one file"),
    ],
)
def test_faults_are_one_line(network, pairs, given, error, message):
    with pytest.raises(error, match=message):
        tune(network, pairs, **given)
    with pytest.raises(DataError, match="0 images"):
        tune(network, [])
    with pytest.raises(ConfigError, match="did you mean 'openvino'"):
        list_candidates(runtimes=["openvin"])


def test_turns_are_taken():
    order = []
    times = time_in_turns({name: (lambda name=name: order.append(name)) for name in "abc"}, rounds=2, calls_each=1)
    assert "".join(order) == "aabbccaabbcc" and all(len(t) == 2 for t in times.values())
