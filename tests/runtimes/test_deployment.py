"""Export, runtimes and the clock: sweeps and faults."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from rtseg.core.environment import make_generator
from rtseg.core.errors import ArtifactError, ConfigError, MissingExtra, RtsegError
from rtseg.core.values import Latency
from rtseg.shipping.checking import settled
from rtseg.layers.merging import can_merge, merged
from rtseg.deployment import RUNTIMES, export_onnx, load_runtime, measure_latency
from rtseg.runtimes.export import compare_onnx, evaluating, to_onnx
from rtseg.latency.measuring import check_clock, cuda_clock, measure_rounds, median_interval, repeat, warm_up
from rtseg.models import count_parameters, create_model
from rtseg.models.fasterseg import FasterSeg
from rtseg.search.space import SearchSpace, sample

SHAPE = (1, 3, 64, 96)


def image(shape=SHAPE):
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    space = SearchSpace(layers=6, base_width=4)
    return FasterSeg(sample(space, make_generator(0)), 7)


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    return path, export_onnx(network, path, shape=SHAPE)


def test_export_agrees_and_has_no_auxiliary_heads(network, exported):
    path, report = exported
    assert report.max_abs_difference < 1e-4 and report.class_agreement > 0.999
    assert path.stat().st_size == report.bytes and network.training
    assert len(load_runtime(path, runtime="onnxruntime", threads=1).outputs) == 1


@pytest.mark.parametrize("images", [1, 2, 5])
def test_batch_is_free(network, exported, images):
    given = image((images, *SHAPE[1:]))
    ort = load_runtime(exported[0], runtime="onnxruntime", threads=1).run(given)
    eager = load_runtime(network, threads=1).run(given)
    assert ort.shape == (images, 7, 64, 96) and np.abs(ort - eager).max() < 1e-4


def test_fixed_batch_refuses_others(network, tmp_path):
    export_onnx(network, tmp_path / "one.onnx", shape=SHAPE, dynamic_batch=False)
    with pytest.raises(ConfigError, match="takes"):
        load_runtime(tmp_path / "one.onnx", runtime="onnxruntime", threads=1).run(image((2, *SHAPE[1:])))


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (72, 136)])
def test_odd_sizes(network, tmp_path, size):
    report = export_onnx(network, tmp_path / "odd.onnx", shape=(1, 3, *size))
    assert report.max_abs_difference < 1e-4


def test_export_writes_nothing_on_disagreement(tmp_path):
    class Liar(nn.Module):
        def forward(self, x):
            return x * (2.0 if torch.compiler.is_exporting() else 1.0)

    with pytest.raises(ArtifactError, match="was not written"):
        export_onnx(Liar(), tmp_path / "liar.onnx", shape=SHAPE)
    assert list(tmp_path.iterdir()) == []


def test_export_of_nan_is_refused(tmp_path):
    class Broken(nn.Module):
        def forward(self, x):
            return x / 0.0 * 0.0

    with pytest.raises(ArtifactError):
        export_onnx(Broken(), tmp_path / "nan.onnx", shape=SHAPE)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_modes_threads_and_state_come_back(network, runtime):
    network.train()
    network.stem.eval()
    modes = [m.training for m in network.modules()]
    state = {k: v.clone() for k, v in network.state_dict().items()}
    threads = torch.get_num_threads()
    measure_latency(
        load_runtime(network, runtime=runtime, threads=1, shape=SHAPE), SHAPE, max_seconds=0.2, rounds=1, min_runs=3
    )
    assert [m.training for m in network.modules()] == modes and torch.get_num_threads() == threads
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items()) and torch.is_grad_enabled()
    network.train()


def test_modes_come_back_after_a_failure(network):
    network.train()
    with pytest.raises(ZeroDivisionError):
        with evaluating(network):
            raise ZeroDivisionError
    assert all(m.training for m in network.modules())


def test_measuring_runs_without_gradients_in_evaluation_mode():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append((self.training, torch.is_inference_mode_enabled(), torch.get_num_threads()))
            return x

    latency = measure_latency(Spy().train(), SHAPE, threads=1, max_seconds=0.1, includes=("network",))
    assert set(seen) == {(False, True, 1)}
    assert Latency.from_dict(latency.to_dict()) == latency and latency.protocol["round_medians_ms"]


@pytest.mark.parametrize(
    "name, options, error",
    [
        ("onnxrt", {}, ConfigError),
        ("torch", {"precision": "int8"}, ConfigError),
        ("onnxruntime", {}, ConfigError),
        ("torch", {"threads": 0}, ConfigError),
    ],
)
def test_runtime_options_are_checked(network, name, options, error):
    with pytest.raises(error) as caught:
        load_runtime(network, runtime=name, **options)
    assert "\n" not in str(caught.value)


def test_a_runtime_without_its_package_names_it(network):
    if "missing" not in RUNTIMES:
        RUNTIMES.register("missing", package="not_a_package", extra="openvino", precisions=("fp32",))(object)
    with pytest.raises(MissingExtra, match=r"not_a_package.*pip install 'rtseg\[openvino\]'"):
        load_runtime(network, runtime="missing")


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_damaged_onnx_file(tmp_path, content):
    path = tmp_path / "x.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        load_runtime(path, runtime="onnxruntime")
    assert "\n" not in str(caught.value) and "x.onnx" in str(caught.value)


def test_torch_runtime_wants_a_module():
    with pytest.raises(ConfigError, match="onnxruntime"):
        load_runtime("net.onnx", runtime="torch")


@pytest.mark.parametrize(
    "wrong", [image()[0], image().astype(np.float64), torch.zeros(SHAPE), (image() * 255).astype(np.uint8)]
)
def test_images_are_checked(network, wrong):
    with pytest.raises(ConfigError, match="float32"):
        load_runtime(network, threads=1).run(wrong)


@pytest.mark.parametrize("n", [1, 2, 5, 10, 50, 301])
def test_median_interval_holds_the_median(n):
    times = np.random.default_rng(n).exponential(size=n).tolist()
    low, high = median_interval(times)
    assert low in times and high in times and low <= np.median(times) <= high


def test_repeat_stops_on_time_and_on_count():
    noise = np.random.default_rng(0)
    times = repeat(lambda: None, lambda call: float(noise.exponential()), tolerance=1e-6, max_runs=40, max_seconds=30)
    assert len(times) == 40
    assert len(repeat(lambda: None, lambda call: 1.0, min_runs=4)) == 4
    assert len(repeat(lambda: None, lambda call: 1.0, max_seconds=0)) == 1


def test_warm_up_ends_although_timings_keep_falling():
    falling = iter(1000 / (1 + i) for i in range(10**6))
    assert len(warm_up(lambda: None, lambda call: next(falling), max_seconds=0.05, margin=0.0)) >= 5


def test_the_quietest_round_counts():
    times = iter([3.0] * 5 + [1.0] * 5 + [2.0] * 5)
    best, medians = measure_rounds(lambda: None, lambda call: next(times), rounds=3, max_seconds=9, min_runs=5)
    assert best == [1.0] * 5 and medians == [3.0, 1.0, 2.0] and math.isclose(min(medians), 1.0)


def test_bf16_is_near(network):
    a, b = (load_runtime(network, threads=1, precision=p).run(image()) for p in ("fp32", "bf16"))
    assert b.dtype == np.float32 and 0 < np.abs(a - b).max() < 0.1 * np.abs(a).max() + 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_clock_sees_the_work_and_catches_another_stream():
    a = torch.randn(4096, 4096, device="cuda")
    assert cuda_clock(lambda: a @ a) > 0.05
    assert check_clock(lambda: [a @ a for _ in range(20)], torch.device("cuda")) > 0.5
    side = torch.cuda.Stream()

    def elsewhere():
        with torch.cuda.stream(side):
            for _ in range(200):
                a @ a

    with pytest.raises(RtsegError, match="returns before"):
        check_clock(elsewhere, torch.device("cuda"))


def test_cuda_network_is_measured_with_the_cuda_clock():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    latency = measure_latency(nn.Conv2d(3, 8, 3).cuda(), SHAPE, includes=("network",), max_seconds=1)
    assert latency.protocol["clock"] == "cuda_clock" and latency.device == torch.cuda.get_device_name()


def test_importing_deployment_is_quiet():
    done = subprocess.run(
        [sys.executable, "-c", "import rtseg.deployment"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stdout == "" and done.stderr == ""


def test_parallel_branches_are_merged_before_export():
    """One convolution a block in the file, the same logits, and the network itself as it was."""
    torch.manual_seed(0)
    network = create_model("rdrnet_s_simple", 5).eval()
    before = count_parameters(network)
    graph = to_onnx(network, (1, 3, 64, 96))
    convolutions = sum(node.op_type == "Conv" for node in graph.graph.node)
    assert (
        convolutions
        == sum(isinstance(m, nn.Conv2d) for n, m in merged(network).named_modules() if not n.startswith("aux_heads"))
        < 60
    )
    assert compare_onnx(graph, network, (1, 3, 64, 96))[0] < 1e-3 and count_parameters(network) == before


def test_merging_changes_nothing():
    """Norms that have seen images, in double precision: 1e-5 and better, at a size that pads."""
    torch.manual_seed(0)
    network = settled(create_model("rdrnet_s_simple", 5), (2, 3, 64, 96)).eval().double()
    image = torch.randn(1, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        wanted, found = network(image), merged(network)(image)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5 and not can_merge(merged(network))
