"""Clock, machine, memory, folding, parts and protocols: sweeps and faults. Numbers are asserted, and times only by their order of construction."""

import queue
import statistics
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from rtseg.core.errors import ConfigError, DeviceMismatch, RtsegError
from rtseg.core.values import Latency
from rtseg.runtimes.folding import NORMS, fold_batchnorm, foldable
from rtseg.latency.machine_state import cpu_state, gpu_state, machine_record, machine_state, require_same_machine
from rtseg.latency.measuring import (
    check_clock,
    cpu_clock,
    graph_call,
    input_shape,
    measure_latency,
    outlier_report,
    trial_image,
)
from rtseg.latency.memory import Memory, measure_memory, observe_memory
from rtseg.latency.parts import (
    AFTER,
    BEFORE,
    EndToEnd,
    class_of,
    enlarge_logits,
    inside_parts,
    measure_end_to_end,
    serve,
    split_steps,
    step_calls,
)
from rtseg.latency.protocols import (
    PROTOCOLS,
    ProtocolRow,
    SmallLogits,
    compare_protocols,
    protocol_graph,
    protocol_table,
)
from rtseg.runtimes.runtimes import load_runtime
from rtseg.runtimes.serving import ServingGraph
from rtseg.models.contract import SegNetwork
from rtseg.models.registry import create_model

CPU = torch.device("cpu")
SIZE = (64, 96)


class Small(SegNetwork):
    """Three layers that end at an eighth."""

    def __init__(self, num_classes=5):
        super().__init__(num_classes)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 4, 1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, num_classes, 1),
        )

    def predict(self, x):
        return self.layers(x)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def plain(network):
    return load_runtime(network, runtime="onnxruntime", threads=1, shape=(1, 3, *SIZE))


@pytest.fixture(scope="module")
def served(network):
    return load_runtime(ServingGraph(network), runtime="onnxruntime", threads=1, shape=(1, *SIZE, 3))


def photo(size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


class Asynchronous:
    """A fake device: each call hands work to a thread and returns, unless it waits."""

    def __init__(self, *, seconds=0.01, wait=False):
        self.work, self.seconds, self.wait = queue.Queue(), seconds, wait
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            self.work.get()
            time.sleep(self.seconds)
            self.work.task_done()

    def __call__(self, x=None):
        self.work.put(x)
        if self.wait:
            self.work.join()
        return x


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_measured_network_lies_in_memory_as_before(layout):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)).to(memory_format=layout)
    before = {name: (t.stride(), t.clone()) for name, t in net.state_dict().items()}
    measure_latency(net, (1, 3, 16, 16), rounds=2, min_runs=2, max_runs=2, max_seconds=0.1, threads=1)
    load_runtime(net, threads=1)(np.zeros((16, 16, 3), np.uint8))
    assert net.training and all(
        t.stride() == before[n][0] and torch.equal(t, before[n][1]) for n, t in net.state_dict().items()
    )


def test_the_self_test_catches_a_missing_synchronisation():
    hasty = Asynchronous()
    with pytest.raises(RtsegError, match="returns before its work is done"):
        check_clock(hasty, CPU, settle=hasty.work.join)


def test_the_self_test_passes_a_target_that_waits():
    patient = Asynchronous(wait=True)
    assert check_clock(patient, CPU, settle=patient.work.join) > 0.5
    assert check_clock(lambda: None, CPU) == 1.0


def test_the_self_test_takes_another_clock():
    """Given a clock that waits, the hasty target is measured rightly."""
    hasty = Asynchronous()

    def waiting_clock(call):
        return cpu_clock(lambda: (call(), hasty.work.join()))

    assert check_clock(hasty, CPU, clock=waiting_clock, settle=hasty.work.join) > 0.5


def test_measure_latency_refuses_a_target_that_does_not_wait():
    class Module(nn.Module):
        def __init__(self, wait):
            super().__init__()
            object.__setattr__(self, "behind", Asynchronous(seconds=0.004, wait=wait))

        def __deepcopy__(self, memo):
            return self  # what works in the background cannot be copied

        def forward(self, x):
            return self.behind(x)

    options = dict(threads=1, includes=("network",), rounds=1, min_runs=2, max_seconds=0.2)
    hasty, patient = Module(False), Module(True)
    with pytest.raises(RtsegError, match="wait for it inside the call"):
        measure_latency(hasty, (1, 3, 8, 8), settle=hasty.behind.work.join, **options)
    assert measure_latency(patient, (1, 3, 8, 8), settle=patient.behind.work.join, **options).median_ms >= 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graph_replay_is_another_number_of_the_same_network(network):
    net = create_model("fastscnn", 5).cuda().eval()
    eager, graph = (
        measure_latency(net, (1, 3, 256, 512), launch=launch, max_seconds=2) for launch in ("eager", "graph")
    )
    assert (
        eager.protocol["launch"] == "eager"
        and graph.protocol["launch"] == "graph"
        and graph.median_ms < 1.2 * eager.median_ms
    )
    with pytest.raises(RtsegError, match="returns before"):
        check_clock(lambda: net(torch.zeros(8, 3, 512, 1024, device="cuda")), torch.device("cuda"), clock=cpu_clock)


@pytest.mark.parametrize(("launch", "words"), [("graph", "replays CUDA kernels"), ("grahp", "did you mean 'graph'")])
def test_impossible_launches(network, launch, words):
    with pytest.raises(ConfigError, match=words):
        measure_latency(network, (1, 3, *SIZE), launch=launch)
    with pytest.raises(ConfigError, match="CUDA"):
        graph_call(lambda: None, CPU)


def test_outliers():
    calm = [10 + 0.01 * i for i in range(40)]
    assert outlier_report(calm)["beyond"] == 0
    found = outlier_report([*calm, 30.0, 60.0])
    assert (found["beyond"], found["of"], found["slowest_ms"]) == (2, 42, 60.0) and 5.8 < found[
        "slowest_over_median"
    ] < 6
    assert found["limit_ms"] == pytest.approx(
        np.percentile([*calm, 30.0, 60.0], 75) + 3 * np.subtract(*np.percentile([*calm, 30.0, 60.0], [75, 25])),
        abs=1e-3,
    )


def test_a_measurement_notes_the_machine_and_its_outliers(network):
    latency = measure_latency(network, (1, 3, *SIZE), threads=1, max_seconds=0.2, rounds=1, min_runs=3)
    assert (
        set(latency.protocol["machine"]) == {"mhz", "max_mhz", "governor", "boost", "load"}
        and latency.protocol["outliers"]["of"] == latency.runs
    )
    assert latency.protocol["launch"] == "eager" and Latency.from_dict(latency.to_dict()) == latency


def test_pixel_graphs_are_fed_pixels(network, plain, served):
    assert input_shape(ServingGraph(network), (2, 3, 64, 96)) == (2, 64, 96, 3) and input_shape(
        network, (2, 3, 64, 96)
    ) == (2, 3, 64, 96)
    pixels, floats = trial_image(served, (1, 3, *SIZE)), trial_image(plain, (1, 3, *SIZE))
    assert (pixels.dtype, pixels.shape, floats.dtype, floats.shape) == (
        np.uint8,
        (1, *SIZE, 3),
        np.float32,
        (1, 3, *SIZE),
    )
    latency = measure_latency(
        served,
        (1, 3, *SIZE),
        max_seconds=0.2,
        rounds=1,
        min_runs=3,
        includes=("preprocessing", "network", "upsampling", "argmax"),
    )
    assert latency.shape == (1, 3, *SIZE)


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, {"max_mhz": "absent", "governor": "absent", "boost": "absent"}),
        (
            {"cpu0/cpufreq/scaling_governor": "performance\n", "cpufreq/boost": "1"},
            {"governor": "performance", "boost": True, "max_mhz": "absent"},
        ),
        (
            {
                "cpu0/cpufreq/cpuinfo_max_freq": "2600000",
                "intel_pstate/no_turbo": "0",
                "cpu0/cpufreq/scaling_cur_freq": "2100500",
            },
            {"max_mhz": 2600.0, "boost": True, "mhz": 2100.5},
        ),
        ({"intel_pstate/no_turbo": "1"}, {"boost": False}),
    ],
)
def test_what_the_system_tells_of_its_clock(tmp_path, files, wanted):
    for name, value in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(value)
    state = cpu_state(tmp_path)
    for key, value in wanted.items():
        assert state[key].startswith("absent: ") if value == "absent" else state[key] == value
    assert machine_state(CPU)["governor"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_absent_with_a_reason():
    assert gpu_state(torch.device("cuda"))["gpu_mhz"].startswith("absent: the driver's library")


def test_machines_are_told_apart():
    here = machine_record()
    assert require_same_machine(here, dict(here), what="x")
    for key, value in (("cpu", "another"), ("cores", 640), ("gpu", "H200"), ("architecture", "riscv")):
        other = {**here, key: value}
        with pytest.raises(DeviceMismatch) as error:
            require_same_machine(other, here, what="bench.json")
        assert str(value) in str(error.value) and str(here["cpu"]) in str(error.value) and "\n" not in str(error.value)
        assert require_same_machine(other, here, what="x", other_machine=True) is False


def test_memory_of_a_fresh_process():
    """A map of 16 x 512 x 512 floats is 16.8 MB; four such maps a layer show, and a process with more memory of its own does not."""
    ballast = np.ones(40_000_000)
    found = measure_memory(nn.Conv2d(3, 64, 3, padding=1), (1, 3, 512, 512), threads=1)
    assert Memory.from_dict(found.to_dict()) == found and ballast.nbytes == 320_000_000
    if found.peak_mb is None:
        pytest.skip(found.how)
    assert 67 < found.peak_mb < 300 and found.loaded_mb < 30 and found.runtime == "torch"


def test_memory_through_onnx_and_its_errors(network):
    found = measure_memory(network, (1, 3, *SIZE), runtime="onnxruntime", threads=1)
    assert found.runtime == "onnxruntime" and found.shape == (1, 3, *SIZE)

    class Local(nn.Module):
        pass

    with pytest.raises(ConfigError, match="define its class in a module"):
        measure_memory(Local(), (1, 3, *SIZE))
    with pytest.raises(ConfigError, match="precision"):
        observe_memory(network, (1, 3, *SIZE), {"precision": "fp7"})
    with pytest.raises(RtsegError, match="was not done after"):
        measure_memory(nn.Conv2d(3, 8, 3), (1, 3, *SIZE), max_seconds=0.05)


@pytest.mark.parametrize("name", ["fastscnn", "bisenetv2", "ddrnet", "stdc", "dabnet"])
def test_folding_keeps_what_a_network_says(name):
    torch.manual_seed(0)
    model = create_model(name, 4)
    for module in model.modules():
        if isinstance(module, NORMS):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.7, 1.4)
            module.weight.data.uniform_(0.8, 1.2)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold_batchnorm(model)
    image = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        wanted, found = model.eval()(image), folded(image)
    assert (wanted - found).abs().max() < 1e-3 * wanted.abs().max()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    count = sum(isinstance(m, NORMS) for m in model.modules()), sum(isinstance(m, NORMS) for m in folded.modules())
    assert count[0] - count[1] == len(foldable(model)) > 0.5 * count[0] and not folded.training


class Pair(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.conv, self.bn, self.other = (
            how,
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.BatchNorm2d(6),
        )
        self.bn.running_mean.uniform_(-1, 1)

    def forward(self, x):
        y = self.conv(x)
        return {
            "plain": lambda: self.bn(y),
            "read": lambda: self.bn(y) + y,
            "listed": lambda: torch.cat([self.bn(y), y], 1),
            "two norms": lambda: self.bn(y) + self.other(y),
            "shared": lambda: self.bn(y) + self.conv(x.flip(-1)),
            "norm twice": lambda: self.bn(self.conv(x.flip(-1))) + self.bn(y),
            "active": lambda: self.bn(y.relu()),
        }[self.how]()


@pytest.mark.parametrize(
    ("how", "pairs"),
    [("plain", 1), ("read", 0), ("listed", 0), ("two norms", 0), ("shared", 0), ("norm twice", 0), ("active", 0)],
)
def test_only_pairs_of_their_own_are_folded(how, pairs):
    model, image = Pair(how).eval(), torch.randn(1, 3, 64, 64)
    assert len(foldable(model)) == pairs
    with torch.no_grad():
        assert torch.allclose(fold_batchnorm(model)(image), model(image), atol=1e-5)


def test_a_folding_that_changes_the_output_is_refused():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.bn(self.conv(x)) + (5.0 if isinstance(self.bn, nn.BatchNorm2d) else 0.0)

    with pytest.raises(RtsegError, match="measure it unfolded"):
        fold_batchnorm(Reader().eval())


def test_serving_is_the_same_whatever_the_graph_holds(network, plain, served):
    image = photo()
    eager, small = load_runtime(network, threads=1), load_runtime(SmallLogits(network), threads=1)
    labels = serve(plain, image)
    assert labels.shape == SIZE and labels.dtype == np.uint8 and np.array_equal(labels, plain(image))
    for other in (served, eager):
        assert (serve(other, image) == labels).mean() > 0.999
    assert (
        small.run(np.zeros((1, 3, *SIZE), np.float32)).shape[-2:] != SIZE
        and (serve(small, image) == labels).mean() > 0.95
    )


def test_sizes_are_changed_at_both_ends(served):
    labels = serve(served, photo((128, 192)), size=SIZE)
    assert labels.shape == (128, 192) and np.array_equal(labels[::2, ::2], labels[1::2, 1::2])
    logits = np.zeros((1, 2, 4, 4), np.float32)
    logits[0, 0, :, :2] = logits[0, 1, :, 2:] = 1
    assert class_of(logits, (8, 8)).tolist() == [[0] * 4 + [1] * 4] * 8 and enlarge_logits(logits, (4, 4)) is logits


@pytest.mark.parametrize(
    ("which", "camera", "names"),
    [
        ("plain", SIZE, {"whole", "run", "normalise", "argmax"}),
        ("served", SIZE, {"whole", "run"}),
        ("served", (128, 192), {"whole", "run", "resize", "enlarge_labels"}),
        ("small", SIZE, {"whole", "run", "normalise", "argmax", "enlarge_logits", "place"}),
    ],
)
def test_a_graph_has_the_steps_that_it_does_not_hold(request, network, which, camera, names):
    runtime = load_runtime(SmallLogits(network), threads=1) if which == "small" else request.getfixturevalue(which)
    assert set(step_calls(runtime, photo(camera), SIZE)) == names


def test_the_record_of_the_whole_way(plain, served):
    for runtime, words in (
        (plain, ["network", "upsampling"]),
        (served, ["normalisation", "network", "upsampling", "argmax"]),
    ):
        record = measure_end_to_end(runtime, SIZE, rounds=2, min_runs=3, max_seconds=0.4)
        assert EndToEnd.from_dict(record.to_dict()) == record and record.inside["network"] == words
        assert record.before_ms == pytest.approx(
            sum(record.steps.get(n, 0) for n in BEFORE), abs=1e-3
        ) and record.after_ms == pytest.approx(sum(record.steps.get(n, 0) for n in AFTER), abs=1e-3)
        assert record.closure == pytest.approx(
            (record.before_ms + record.network_ms + record.after_ms) / record.whole.median_ms, abs=1e-3
        )
        assert (
            record.network.median_ms == pytest.approx(record.network_ms, abs=1e-3)
            and "copies" in record.whole.includes
            and len(record.whole.protocol["round_medians_ms"]) == 2
        )


def test_parts_sum_where_the_times_are_known():
    """A runtime of naps: 4 ms of network and 3 ms of copies."""
    steps = split_steps(
        {
            "whole": [15.0, 15.0, 99.0],
            "run": [7.0] * 3,
            "network": [4.0, 4.0, 4.0],
            "normalise": [5.0],
            "argmax": [2.0],
            "resize": [1.0],
            "place": [1.0],
        }
    )
    assert steps == {
        "resize": 1.0,
        "normalise": 5.0,
        "place": 1.0,
        "network": 4.0,
        "fetch": 2.0,
        "argmax": 2.0,
    } and sum(steps.values()) == statistics.median([15.0, 15.0, 99.0])
    assert split_steps({"whole": [4.0], "run": [4.0], "network": [5.0], "place": [9.0]})["place"] == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        dict(size=(64,)),
        dict(size=(0, 64)),
        dict(size=SIZE, camera=(3, -1)),
        dict(size=SIZE, rounds=0),
        dict(size=SIZE, tolerance=1.0),
    ],
)
def test_impossible_whole_ways(served, wrong):
    with pytest.raises(ConfigError, match="is impossible"):
        measure_end_to_end(served, **wrong)


def test_what_is_inside():
    class Fake:
        takes_pixels = False

    assert inside_parts(Fake(), np.zeros((1, 5, 8, 12), np.float32), SIZE, SIZE) == {
        "before": ["normalisation", "copy in"],
        "network": ["network"],
        "after": ["copy out", "upsampling", "argmax"],
    }


def test_protocols_put_different_things_on_the_clock(network):
    image = torch.randn(1, 3, *SIZE)
    shapes = {}
    for protocol in PROTOCOLS[:5]:
        graph = protocol_graph(network, protocol)
        with torch.no_grad():
            shapes[protocol.name] = tuple(graph(image).shape)
        assert sum(isinstance(m, NORMS) for m in graph.modules()) == (0 if protocol.folded else 2)
    assert list(shapes.values()) == [(1, 5, 8, 12)] * 2 + [(1, 5, *SIZE)] * 2 + [(1, *SIZE)]


def test_the_protocol_table(network):
    rows = compare_protocols(
        network,
        SIZE,
        runtimes=(("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "fp3")),
        protocols=PROTOCOLS[:5],
        threads=1,
        rounds=1,
        max_seconds=0.1,
    )
    assert len(rows) == 5 + 3 + 3 and all(ProtocolRow.from_dict(row.to_dict()) == row for row in rows)
    listed = protocol_table(rows)
    assert [line["ms"] is None for line in listed] == [False] * 8 + [True] * 3 and "fp3" in listed[-1]["note"]
    measured = [line for line in listed if line["ms"] is not None]
    assert min(line["times the fastest"] for line in measured) == 1.0
    assert all(line["frames/s"] * line["ms"] == pytest.approx(1000) for line in measured)


def test_small_logits_need_the_contract():
    with pytest.raises(ConfigError, match="contract"):
        SmallLogits(nn.Conv2d(3, 4, 1))
