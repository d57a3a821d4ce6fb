"""Compiled, recorded and GPU runtimes: what runs here, and what says why it does not."""

import subprocess
import sys
from copy import deepcopy

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from rtseg.core.errors import ConfigError, DataError, MissingExtra
from rtseg.deployment import RUNTIMES, ServingGraph, export_onnx, load_runtime, why_absent
from rtseg.runtimes.compiled import CudaGraphRuntime, lowered, missing_compiler, record
from rtseg.runtimes.export import to_onnx
from rtseg.runtimes.openvino import capabilities
from rtseg.models.contract import SegNetwork

SHAPE = (1, 3, 64, 96)
IMAGE = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and PyTorch sees none")
needs_compiler = pytest.mark.skipif(
    missing_compiler() is not None, reason="needs a C++ compiler, and none is installed"
)


class Small(SegNetwork):
    """Convolution, batch norm and ReLU, a head; upsampled by the contract."""

    def __init__(self):
        super().__init__(5)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.head = nn.Conv2d(8, 5, 1)

    def predict(self, x):
        return self.head(self.body(x))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def wanted(small):
    return load_runtime(small, threads=1).run(IMAGE)


def test_every_runtime_runs_or_says_why_in_one_line(small, wanted):
    assert {"torch", "torch-compile", "cuda-graphs", "onnxruntime", "onnxruntime-cuda", "openvino", "tensorrt"} <= set(
        RUNTIMES.names()
    )
    for name in ("cuda-graphs", "onnxruntime", "onnxruntime-cuda", "openvino", "tensorrt", "torch"):
        reason = why_absent(name)
        if reason is None:
            found = load_runtime(small, runtime=name, threads=1, shape=SHAPE).run(IMAGE)
            assert np.abs(found - wanted).max() < 1e-2 * np.abs(wanted).max(), name
        else:
            assert "\n" not in reason and f"runtime '{name}' needs " in reason and ": " in reason
            with pytest.raises((ConfigError, MissingExtra)) as caught:
                load_runtime(small, runtime=name, shape=SHAPE)
            assert str(caught.value) == reason


@needs_compiler
def test_a_compiled_network_agrees_and_serves_pixels(small, wanted):
    compiled = load_runtime(small, runtime="torch-compile", threads=1)
    assert np.abs(compiled.run(IMAGE) - wanted).max() < 1e-5
    assert np.abs(compiled.run(2 * IMAGE) - load_runtime(small, threads=1).run(2 * IMAGE)).max() < 1e-5
    facts = compiled.describe()
    assert (
        facts["runtime"] == "torch-compile"
        and facts["threads"] == 1
        and set(facts["versions"]) == {"torch", "allocator", "compiler"}
    )


def test_without_a_compiler_one_line_says_so(small, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(
        ConfigError, match=r"C\+\+ compiler, and none of g\+\+, clang\+\+ is installed: install g\+\+"
    ) as caught:
        load_runtime(small, runtime="torch-compile")
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("CXX", "my-own-compiler")
    assert "my-own-compiler" in missing_compiler()


@needs_compiler
def test_what_cannot_be_one_graph_is_refused(small):
    class Moody(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ConfigError, match=r"torch\.compile cannot take Moody as one graph") as caught:
        load_runtime(Moody(), runtime="torch-compile", threads=1).run(IMAGE)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="runs a module"):
        load_runtime("net.onnx", runtime="torch-compile")


@pytest.mark.parametrize(
    "precision, dtype, limit",
    [("fp32", torch.float32, 0.0), ("bf16", torch.bfloat16, 0.05), ("fp16", torch.float16, 0.005)],
)
def test_lowered_copies_cast_once(small, precision, dtype, limit):
    copy = lowered(small, precision)
    with torch.inference_mode():
        laid_out = deepcopy(small).to(memory_format=torch.channels_last)
        found, exact = copy(torch.from_numpy(IMAGE)), laid_out(torch.from_numpy(IMAGE))
    assert (
        found.dtype == dtype
        and {p.dtype for p in copy.parameters()} == {dtype}
        and {p.dtype for p in small.parameters()} == {torch.float32}
    )
    assert float((found.float() - exact).abs().max()) <= limit * float(exact.abs().max())


def test_a_lowered_serving_graph_normalises_in_fp32(small):
    pixels = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8))
    graph = ServingGraph(small, image="uint8", output="labels")
    seen = []
    copy = lowered(graph, "bf16")
    copy.model.body[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    with torch.inference_mode():
        agree = float((copy(pixels) == graph.eval()(pixels)).float().mean())
    assert seen == [torch.bfloat16] and agree > 0.95


def test_outputs_have_names(small, wanted):
    graph = to_onnx(small, SHAPE, dynamic_batch=False)
    inner = graph.graph.node[1].output[0]
    graph.graph.output.append(onnx.ValueInfoProto(name=inner))
    for name in ("onnxruntime", "openvino"):
        if why_absent(name) is None:
            found = load_runtime(graph, runtime=name, threads=1).outputs_of(IMAGE)
            assert set(found) == {"logits", inner} and found[inner].shape == (1, 8, 32, 48), name
            assert np.abs(found["logits"] - wanted).max() < 1e-4 * np.abs(wanted).max()
    with pytest.raises(ConfigError, match="shows none of its layers"):
        load_runtime(small).outputs_of(IMAGE)


def test_a_wrong_image_is_refused_before_anything_is_compiled(small):
    for given in (IMAGE[0], IMAGE.astype(np.float64)):
        with pytest.raises(ConfigError, match="float32"):
            load_runtime(small, runtime="torch-compile").run(given)


def test_the_networks_own_errors_are_not_disguised(small):
    with pytest.raises(DataError):
        load_runtime(small).run(IMAGE[:, :, :40])


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what a machine without CUDA says; this one has it")
def test_recording_without_a_gpu_is_one_line(small):
    with pytest.raises(ConfigError, match="PyTorch sees none") as caught:
        record(small, torch.from_numpy(IMAGE))
    assert "\n" not in str(caught.value)


@needs_cuda
@pytest.mark.parametrize("precision, limit", [("fp32", 5e-3), ("bf16", 0.05), ("fp16", 5e-3)])
def test_a_recording_replays_new_images(small, wanted, precision, limit):
    runtime = load_runtime(small, runtime="cuda-graphs", precision=precision)
    assert isinstance(runtime, CudaGraphRuntime)
    for factor in (1.0, 3.0, 1.0):
        exact = load_runtime(small).run((factor * IMAGE).astype(np.float32))
        assert np.abs(runtime.run((factor * IMAGE).astype(np.float32)) - exact).max() < limit * np.abs(exact).max()
    assert len(runtime.recordings) == 1
    runtime.run(IMAGE[..., :64].copy())
    assert len(runtime.recordings) == 2 and np.abs(runtime.run(IMAGE) - wanted).max() < limit * np.abs(wanted).max()


@needs_cuda
def test_what_cannot_be_recorded_is_refused():
    class Asks(nn.Module):
        def forward(self, x):
            return x * float(x.sum())

    with pytest.raises(ConfigError, match="cannot be recorded as a CUDA graph"):
        load_runtime(Asks(), runtime="cuda-graphs").run(IMAGE)


@pytest.mark.skipif(why_absent("onnxruntime-cuda") is not None, reason=str(why_absent("onnxruntime-cuda")))
def test_onnxruntime_on_cuda_agrees(small, wanted, tmp_path):
    export_onnx(small, tmp_path / "net.onnx", shape=SHAPE)
    runtime = load_runtime(tmp_path / "net.onnx", runtime="onnxruntime-cuda")
    assert np.abs(runtime.run(IMAGE) - wanted).max() < 5e-3 * np.abs(wanted).max()
    with runtime.ready(IMAGE) as call:
        call()


SIGNALS = """
import gc, os, signal
from torch import nn
from rtseg.deployment import load_runtime
heard, net = [], nn.Conv2d(3, 4, 3).eval()
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
first, second = (load_runtime(net, runtime="openvino", shape=(1, 3, 32, 32), threads=1) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
print(heard)
"""


def test_a_process_that_used_openvino_still_takes_signals():
    """With a Core for each runtime it died here of a segmentation fault."""
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SIGNALS], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split("\n")[-2] == "[1]", done.stderr[-500:]


def test_openvino_has_no_bf16_where_onednn_is_held_down(small, monkeypatch):
    """It goes on naming what the processor has, and then finds no kernels."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert "FP32" in capabilities() and "BF16" not in capabilities()
    with pytest.raises(ConfigError, match="'bf16' has no kernels on this processor"):
        load_runtime(small, runtime="openvino", precision="bf16", shape=SHAPE, threads=1)


def test_every_runtime_is_known_however_it_is_imported():
    """The face imports nothing until it is asked: a runtime must not be unknown because nobody has touched its module."""
    code = "from rtseg.runtimes.runtimes import RUNTIMES; assert {'openvino', 'tensorrt', 'torch-compile'} <= set(RUNTIMES.names()), RUNTIMES.names()"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
