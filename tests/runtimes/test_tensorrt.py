"""TensorRT: conversion and records anywhere, the build's logic on a stand-in, the API's names where TensorRT is installed, engines where there is a GPU."""

import json
import subprocess
import sys
import tempfile
import types
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from rtseg.core.errors import ArtifactError, ConfigError
from rtseg.core.files import sha256_bytes, sha256_file
from rtseg.deployment import ServingGraph, build_engine, load_runtime
from rtseg.runtimes.engine import (
    Engine,
    EngineError,
    machine_facts,
    milliseconds,
    missing_parts,
    read_engine,
    record_path,
)
from rtseg.runtimes.export import to_onnx
from rtseg.runtimes.half import to_half
from rtseg.runtimes.tensorrt import EngineRecord, check_quantised, engine_for, engines_folder, prepared

SHAPE = (1, 3, 64, 96)
IMAGE = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
HERE = {"tensorrt": "11.4.0", "gpu": "NVIDIA H200", "compute_capability": "9.0"}
needs_engine = pytest.mark.skipif(missing_parts() is not None, reason=f"needs {missing_parts()}")


class Net(nn.Module):
    """Convolution, norm, resize by scale, concatenation, and a constant: what half precision has to get right."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, x):
        fine = self.stem(x)
        coarse = nn.functional.interpolate(
            nn.functional.avg_pool2d(fine, 2), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        return nn.functional.interpolate(
            self.head(torch.cat([fine, coarse * 0.5], 1)), size=x.shape[-2:], mode="bilinear", align_corners=False
        )


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def graph(net):
    return to_onnx(net, SHAPE, dynamic_batch=False)


def ran(proto: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    return load_runtime(proto, runtime="onnxruntime", threads=1).run(image)


def test_half_keeps_the_ends_and_the_meaning(graph):
    half = to_half(graph)
    weights = [t for t in half.graph.initializer if t.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)]
    scales = {name for node in half.graph.node if node.op_type == "Resize" for name in node.input[1:3] if name}
    assert weights and all((t.data_type == TensorProto.FLOAT) == (t.name in scales) for t in weights)
    wanted, found = ran(graph, IMAGE), ran(half, IMAGE)
    assert found.dtype == np.float32 and 0 < np.abs(found - wanted).max() < 0.01 * np.abs(wanted).max()
    assert [i.name for i in half.graph.input] == ["image"] and [o.name for o in half.graph.output] == ["logits"]
    assert half.graph.node[0].op_type == "Cast" and half.graph.node[-1].op_type == "Cast"
    assert graph.graph.node[0].op_type == "Conv"  # the original is as it was


def test_half_of_a_serving_graph_takes_pixels(net):
    class Contract(nn.Module):
        in_channels = 3

        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x)

    serving = to_onnx(ServingGraph(Contract()), (1, 64, 96, 3), dynamic_batch=False, dtype=torch.uint8)
    pixels = np.random.default_rng(1).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    exact, half = ran(serving, pixels), ran(to_half(serving), pixels)
    assert half.dtype == np.uint8 and half.shape == (1, 64, 96) and (exact == half).mean() > 0.97
    assert not any(
        t.data_type == TensorProto.FLOAT
        for t in to_half(serving).graph.initializer
        if numpy_helper.to_array(t).size > 8
    )


def test_what_half_precision_cannot_hold_is_named(graph):
    big = onnx.ModelProto()
    big.CopyFrom(graph)
    tensor = next(t for t in big.graph.initializer if t.data_type == TensorProto.FLOAT)
    tensor.CopyFrom(numpy_helper.from_array(1e5 * np.ones_like(numpy_helper.to_array(tensor)), tensor.name))
    with pytest.raises(ConfigError, match="half precision cannot") as caught:
        to_half(big)
    assert tensor.name in str(caught.value) and "\n" not in str(caught.value)


def test_a_graph_within_a_graph_is_refused():
    inner = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["y"])],
        "inner",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["yes"], ["logits"], then_branch=inner, else_branch=inner)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("image", "logits")]
    proto = helper.make_model(
        helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(np.array(True), "yes")])
    )
    with pytest.raises(ConfigError, match="operator If"):
        to_half(proto)


def quantised(graph: onnx.ModelProto, **options) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class One(CalibrationDataReader):
        def __init__(self):
            self.left = [{"image": IMAGE}]

        def get_next(self):
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as folder:
        quantize_static(
            graph,
            f"{folder}/q.onnx",
            One(),
            quant_format=QuantFormat.QDQ,
            activation_type=options.pop("activation", QuantType.QInt8),
            weight_type=QuantType.QInt8,
            extra_options=options,
        )
        return onnx.load(f"{folder}/q.onnx")


def test_only_symmetric_int8_graphs_pass(graph):
    from onnxruntime.quantization import QuantType

    good = quantised(graph, ActivationSymmetric=True, WeightSymmetric=True, QuantizeBias=False)
    assert check_quantised(good) >= 3 and prepared(good.SerializeToString(), "int8") == good.SerializeToString()
    for bad in (
        quantised(graph, ActivationSymmetric=True, WeightSymmetric=True),
        quantised(graph, activation=QuantType.QUInt8),
    ):
        with pytest.raises(ConfigError, match="TensorRT takes symmetric int8") as caught:
            check_quantised(bad)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="no QuantizeLinear"):
        prepared(graph.SerializeToString(), "int8")


@pytest.fixture
def engine_file(tmp_path):
    path = tmp_path / "net.engine"
    path.write_bytes(b"plan")
    EngineRecord(
        sha256_bytes(b"plan"),
        "0" * 64,
        **HERE,
        precision="fp16",
        inputs={"image": list(SHAPE)},
        outputs={"logits": [1, 5, 64, 96]},
        workspace_mb=1,
        level=3,
        tf32=False,
        seconds=1.0,
        bytes=4,
    ).save(record_path(path))
    return path


@pytest.mark.parametrize(
    "change, words",
    [
        ({"tensorrt": "10.13.3"}, "tensorrt 11.4.0 instead of 10.13.3"),
        ({"gpu": "Orin"}, "gpu NVIDIA H200 instead of Orin"),
        ({"compute_capability": "8.7"}, "compute_capability 9.0 instead of 8.7"),
    ],
)
def test_an_engine_of_another_machine_is_refused(engine_file, change, words):
    assert read_engine(engine_file, HERE)[0] == b"plan"
    with pytest.raises(EngineError, match=words):
        read_engine(engine_file, {**HERE, **change})


def test_damaged_engines_and_records_are_refused(engine_file):
    engine_file.write_bytes(b"other")
    with pytest.raises(EngineError, match="not the engine that its record describes"):
        read_engine(engine_file, HERE)
    record_path(engine_file).write_text("{")
    with pytest.raises(EngineError, match="no valid record"):
        read_engine(engine_file, HERE)
    record_path(engine_file).unlink()
    with pytest.raises(EngineError, match="comes with its record"):
        read_engine(engine_file, HERE)


def test_the_engine_file_needs_neither_torch_nor_rtseg(engine_file):
    file = find_spec("rtseg.runtimes.engine").origin
    code = f"import sys; sys.path.insert(0, {str(Path(file).parent)!r}); import engine; print(engine.read_engine({str(engine_file)!r}, {HERE!r})[1]['precision'], 'torch' in sys.modules, 'rtseg' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import site; site.main(); {code}"], capture_output=True, text=True
    )
    assert done.stdout.split() == ["fp16", "False", "False"], done.stderr


# A stand-in for TensorRT and pycuda: it "builds" by keeping the ONNX bytes and runs them with ONNX Runtime. Its names are checked against the real modules below.


def stand_in(free_batch: bool = False, refuse: str = "") -> dict[str, types.ModuleType]:
    trt, cuda, pycuda = types.ModuleType("tensorrt"), types.ModuleType("pycuda.driver"), types.ModuleType("pycuda")
    trt.__version__, pycuda.driver = HERE["tensorrt"], cuda
    kinds = {1: np.float32, 2: np.uint8}

    class ILogger:
        Severity = types.SimpleNamespace(ERROR=1, INTERNAL_ERROR=0, WARNING=2)

        def __init__(self):
            self.made = True

    class Logger(ILogger):
        ERROR = 1

        def __init__(self, level):
            self.level = level

    class Tensor:
        def __init__(self, info):
            self.name = info.name
            self.shape = tuple(d.dim_value or -1 for d in info.type.tensor_type.shape.dim)

    class Network:
        num_inputs = num_outputs = 1

        def get_input(self, i):
            return Tensor(self.proto.graph.input[i])

        def get_output(self, i):
            return Tensor(self.proto.graph.output[i])

    class OnnxParser:
        def __init__(self, network, logger):
            self.network = network

        def parse(self, data):
            self.network.proto = onnx.load_from_string(data)
            return refuse in ("", "build")

        def get_error(self, i):
            node = next(n for n in self.network.proto.graph.node if n.op_type == refuse)
            return types.SimpleNamespace(
                node_name=lambda: node.name, node_operator=lambda: node.op_type, desc=lambda: "no\nimporter"
            )

    class Config:
        builder_optimization_level = 3

        def __init__(self):
            self.cleared, self.profiles = [], []

        def set_memory_pool_limit(self, pool, size):
            assert size == 64 << 20

        def clear_flag(self, flag):
            self.cleared.append(flag)

        def create_timing_cache(self, data):
            return types.SimpleNamespace(serialize=lambda: data + b"+")

        def set_timing_cache(self, cache, ignore_mismatch):
            self.cache = cache
            return b"damaged" not in cache.serialize()

        def get_timing_cache(self):
            return self.cache

        def add_optimization_profile(self, profile):
            self.profiles.append(profile.shapes)

    class Profile:
        def __init__(self):
            self.shapes = {}

        def set_shape(self, name, low, best, high):
            self.shapes[name] = (low, best, high)

    class Builder:
        def __init__(self, logger):
            self.logger = logger

        def create_network(self, flags):
            assert flags == 1 << 1
            return Network()

        def create_builder_config(self):
            return Config()

        def create_optimization_profile(self):
            return Profile()

        def build_serialized_network(self, network, config):
            assert config.cleared == [7] and bool(config.profiles) == free_batch
            if refuse == "build":
                self.logger.log(1, "no kernel\nfits")
                return None
            return network.proto.SerializeToString()

    class Context:
        def __init__(self, session):
            self.session, self.addresses = session, {}

        def set_input_shape(self, name, shape):
            return len(shape) == 4

        def get_tensor_shape(self, name):
            return next(t.shape for t in (*self.session.get_inputs(), *self.session.get_outputs()) if t.name == name)

        def set_tensor_address(self, name, address):
            self.addresses[name] = cuda.blocks[address]
            return True

        def execute_async_v3(self, stream):
            given = self.session.get_inputs()[0]
            image = (
                self.addresses[given.name].view(np.uint8 if "uint8" in given.type else np.float32).reshape(given.shape)
            )
            for output, array in zip(
                self.session.get_outputs(), self.session.run(None, {given.name: image}), strict=True
            ):
                self.addresses[output.name][:] = array.view(np.uint8).ravel()
            return True

    class CudaEngine:
        def __init__(self, plan):
            self.session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
            self.tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
            self.num_io_tensors = len(self.tensors)

        def get_tensor_name(self, i):
            return self.tensors[i].name

        def get_tensor_mode(self, name):
            return trt.TensorIOMode.INPUT if name == self.tensors[0].name else trt.TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name):
            return 2 if "uint8" in next(t.type for t in self.tensors if t.name == name) else 1

        def create_execution_context(self):
            return Context(self.session)

    class Runtime:
        def __init__(self, logger):
            self.logger = logger

        def deserialize_cuda_engine(self, plan):
            return None if plan == b"plan" else CudaEngine(plan)

    trt.ILogger, trt.Logger, trt.OnnxParser, trt.Builder, trt.Runtime, trt.nptype = (
        ILogger,
        Logger,
        OnnxParser,
        Builder,
        Runtime,
        kinds.__getitem__,
    )
    trt.NetworkDefinitionCreationFlag = types.SimpleNamespace(STRONGLY_TYPED=1)
    trt.BuilderFlag, trt.MemoryPoolType = types.SimpleNamespace(TF32=7), types.SimpleNamespace(WORKSPACE=0)
    trt.TensorIOMode = types.SimpleNamespace(INPUT=1, OUTPUT=2)

    class Block(int):
        pass

    def mem_alloc(size):
        cuda.blocks.append(np.zeros(size, np.uint8))
        return Block(len(cuda.blocks) - 1)

    class Device:
        def __init__(self, number):
            self.number = number

        @staticmethod
        def count():
            return 1

        def name(self):
            return HERE["gpu"]

        def compute_capability(self):
            return 9, 0

        def retain_primary_context(self):
            return types.SimpleNamespace(push=lambda: cuda.depth.append(1))

    class Event:
        def record(self, stream):
            return self

        def synchronize(self):
            return self

        def time_till(self, other):
            return 1.25

    cuda.blocks, cuda.depth, cuda.Error, cuda.Device, cuda.Event = [], [], RuntimeError, Device, Event
    cuda.init, cuda.mem_alloc, cuda.pagelocked_empty = (lambda: None), mem_alloc, np.empty
    cuda.Context = types.SimpleNamespace(pop=cuda.depth.pop)
    cuda.Stream = lambda: types.SimpleNamespace(handle=5, synchronize=lambda: None)
    cuda.memcpy_htod_async = lambda memory, host, stream: cuda.blocks[memory].__setitem__(
        slice(None), host.view(np.uint8).ravel()
    )
    cuda.memcpy_dtoh_async = lambda host, memory, stream: (
        host.view(np.uint8).ravel().__setitem__(slice(None), cuda.blocks[memory])
    )
    return {"tensorrt": trt, "pycuda": pycuda, "pycuda.driver": cuda}


def install(monkeypatch, **options):
    modules = stand_in(**options)
    for name, module in modules.items():
        module.__spec__ = types.SimpleNamespace(name=name)
        monkeypatch.setitem(sys.modules, name, module)
    return modules


@pytest.mark.parametrize("precision, limit", [("fp32", 1e-5), ("fp16", 0.01)])
def test_build_write_open_run(monkeypatch, tmp_path, graph, precision, limit):
    cuda = install(monkeypatch)["pycuda.driver"]
    path = tmp_path / "net.engine"
    record = build_engine(graph, path, precision=precision, workspace_mb=64)
    assert (
        record == EngineRecord.load(record_path(path))
        and record.inputs == {"image": list(SHAPE)}
        and record.outputs == {"logits": [1, 5, 64, 96]}
    )
    assert record.precision == precision and record.bytes == path.stat().st_size and not record.cached_timings
    assert {p.name for p in tmp_path.iterdir()} == {"net.engine", "net.engine.json", "timings-11.4.0-sm9.0.cache"}
    assert build_engine(
        graph, path, precision=precision, workspace_mb=64
    ).cached_timings and record.onnx_sha256 == sha256_bytes(graph.SerializeToString())
    timings = tmp_path / "timings-11.4.0-sm9.0.cache"
    assert timings.read_bytes() == b"++"
    timings.write_bytes(b"damaged")
    build_engine(graph, path, precision=precision, workspace_mb=64)
    assert timings.read_bytes() == b"+"
    runtime = load_runtime(path, runtime="tensorrt", precision=precision)
    wanted = ran(graph, IMAGE)
    assert np.abs(runtime.run(IMAGE) - wanted).max() <= limit * np.abs(wanted).max() and not runtime.takes_pixels
    with runtime.ready(IMAGE) as call:
        call()
    assert milliseconds(runtime.engine) == 1.25 and cuda.depth == [] and runtime.describe()["device"] == HERE["gpu"]
    with pytest.raises(ConfigError, match="the engine takes float32"):
        runtime.run(IMAGE[..., :64].copy())
    with pytest.raises(ConfigError, match="was built in"):
        load_runtime(path, runtime="tensorrt", precision="fp16" if precision == "fp32" else "fp32")


def test_a_free_batch_gets_a_profile(monkeypatch, tmp_path, net):
    install(monkeypatch, free_batch=True)
    proto = to_onnx(net, SHAPE)
    with pytest.raises(ConfigError, match="has a free size"):
        build_engine(proto, tmp_path / "net.engine", workspace_mb=64)
    assert not list(tmp_path.iterdir())
    assert build_engine(proto, tmp_path / "net.engine", shape=SHAPE, workspace_mb=64).inputs == {"image": list(SHAPE)}


def test_what_tensorrt_refuses_is_named(monkeypatch, tmp_path, graph):
    install(monkeypatch, refuse="Conv")
    with pytest.raises(ConfigError, match=r"operator Conv in module 'stem\.0' .*no importer"):
        build_engine(graph, tmp_path / "net.engine", shape=SHAPE)
    install(monkeypatch, refuse="build")
    with pytest.raises(ConfigError, match=r"cannot build this network: no kernel fits"):
        build_engine(graph, tmp_path / "net.engine", shape=SHAPE, workspace_mb=64)
    assert not list(tmp_path.iterdir())


def test_engines_are_made_once_and_again_for_another_machine(monkeypatch, tmp_path, graph):
    install(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []

    def build(source, path, *, shape, precision):
        asked.append(path)
        return build_engine(source, path, shape=shape, precision=precision, workspace_mb=64)

    first = engine_for(graph, shape=SHAPE, precision="fp32", build=build)
    assert (
        engine_for(graph, shape=SHAPE, precision="fp32", build=build) == first
        and asked == [first]
        and first.parent == engines_folder()
    )
    facts = json.loads(record_path(first).read_text())
    record_path(first).write_text(json.dumps({**facts, "gpu": "Orin"}))
    with pytest.raises(ArtifactError, match="was built for gpu Orin instead of NVIDIA H200"):
        load_runtime(first, runtime="tensorrt")
    assert engine_for(graph, shape=SHAPE, precision="fp32", build=build) == first and asked == [first, first]
    assert engine_for(first, shape=None, precision="fp32", build=build) == first and len(asked) == 2
    onnx.save(graph, tmp_path / "net.onnx")
    beside = engine_for(tmp_path / "net.onnx", shape=SHAPE, precision="fp32", build=build)
    assert beside.parent == tmp_path and EngineRecord.load(record_path(beside)).onnx_sha256 == sha256_file(
        tmp_path / "net.onnx"
    )


def test_what_is_missing_is_said(tmp_path, net):
    if missing_parts() is None:
        pytest.skip("shows what a machine without TensorRT or a GPU says; this one has both")
    with pytest.raises(ConfigError, match="running an engine needs"):
        build_engine(net, tmp_path / "net.engine", shape=SHAPE)
    with pytest.raises(EngineError, match="running an engine needs"):
        machine_facts()


# The names that the code uses, in the real module. Its bindings can be imported without a GPU.

NAMES = (
    "ILogger.Severity.ERROR",
    "ILogger.Severity.INTERNAL_ERROR",
    "ILogger.log",
    "Logger.ERROR",
    "Builder.create_network",
    "Builder.create_builder_config",
    "Builder.create_optimization_profile",
    "Builder.build_serialized_network",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "OnnxParser.parse",
    "OnnxParser.get_error",
    "ParserError.node_name",
    "ParserError.node_operator",
    "ParserError.desc",
    "INetworkDefinition.num_inputs",
    "INetworkDefinition.num_outputs",
    "INetworkDefinition.get_input",
    "INetworkDefinition.get_output",
    "ITensor.name",
    "ITensor.shape",
    "IBuilderConfig.set_memory_pool_limit",
    "MemoryPoolType.WORKSPACE",
    "IBuilderConfig.builder_optimization_level",
    "IBuilderConfig.clear_flag",
    "BuilderFlag.TF32",
    "IBuilderConfig.create_timing_cache",
    "IBuilderConfig.set_timing_cache",
    "IBuilderConfig.get_timing_cache",
    "ITimingCache.serialize",
    "IOptimizationProfile.set_shape",
    "IBuilderConfig.add_optimization_profile",
    "Runtime.deserialize_cuda_engine",
    "ICudaEngine.num_io_tensors",
    "ICudaEngine.get_tensor_name",
    "ICudaEngine.get_tensor_mode",
    "TensorIOMode.INPUT",
    "ICudaEngine.get_tensor_dtype",
    "nptype",
    "ICudaEngine.create_execution_context",
    "IExecutionContext.set_input_shape",
    "IExecutionContext.get_tensor_shape",
    "IExecutionContext.set_tensor_address",
    "IExecutionContext.execute_async_v3",
    "IHostMemory.nbytes",
)


def test_every_name_exists_in_tensorrt():
    tensorrt = pytest.importorskip(
        "tensorrt", reason="needs the package tensorrt, which is not installed: pip install 'rtseg[tensorrt]'"
    )
    for name in NAMES:
        place = tensorrt
        for part in name.split("."):
            assert hasattr(place, part), f"tensorrt {tensorrt.__version__} has no {name}"
            place = getattr(place, part)
    assert isinstance(
        1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED), int
    )  # its number differs between 10 and 11
    assert (
        np.dtype(tensorrt.nptype(tensorrt.DataType.HALF)) == np.float16
        and np.dtype(tensorrt.nptype(tensorrt.DataType.UINT8)) == np.uint8
    )


def test_the_loggers_messages_are_kept():
    tensorrt = pytest.importorskip(
        "tensorrt", reason="needs the package tensorrt, which is not installed: pip install 'rtseg[tensorrt]'"
    )
    from rtseg.runtimes.tensorrt import collecting_logger

    logger = collecting_logger()
    logger.log(tensorrt.ILogger.Severity.ERROR, "no\n kernel")
    logger.log(tensorrt.ILogger.Severity.WARNING, "slow")
    assert logger.messages == ["no kernel"]


@needs_engine
@pytest.mark.parametrize("precision, limit", [("fp32", 1e-3), ("fp16", 0.02)])
def test_an_engine_agrees_with_pytorch(net, tmp_path, precision, limit):
    build_engine(net, tmp_path / "net.engine", shape=SHAPE, precision=precision)
    runtime = load_runtime(tmp_path / "net.engine", runtime="tensorrt", precision=precision)
    wanted = load_runtime(net).run(IMAGE)
    assert np.abs(runtime.run(IMAGE) - wanted).max() < limit * np.abs(wanted).max()
    assert milliseconds(runtime.engine) > 0


@needs_engine
def test_an_int8_engine_is_near(net, graph, tmp_path):
    build_engine(
        quantised(graph, ActivationSymmetric=True, WeightSymmetric=True, QuantizeBias=False),
        tmp_path / "net.engine",
        shape=SHAPE,
        precision="int8",
    )
    found = load_runtime(tmp_path / "net.engine", runtime="tensorrt", precision="int8").run(IMAGE)
    assert np.abs(found - load_runtime(net).run(IMAGE)).max() < 0.25 * np.abs(found).max()


@needs_engine
def test_an_engine_runs_without_torch(net, tmp_path):
    build_engine(net, tmp_path / "net.engine", shape=SHAPE)
    np.save(tmp_path / "image.npy", IMAGE)
    folder = Path(find_spec("rtseg.runtimes.engine").origin).parent
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); import numpy as np; from engine import Engine; "
        f"out = Engine({str(tmp_path / 'net.engine')!r}).run(np.load({str(tmp_path / 'image.npy')!r}))['logits']; print(out.shape, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "(1, 5, 64, 96) False", done.stderr
    assert isinstance(Engine(tmp_path / "net.engine"), Engine)
