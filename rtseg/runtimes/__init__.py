"""Networks outside training: export, what is inside the graph, and the runtimes that execute it."""

from rtseg.runtimes.compiled import CompiledRuntime, CudaGraphRuntime, OnnxRuntimeCuda
from rtseg.runtimes.export import ExportReport, export_onnx
from rtseg.runtimes.folding import fold_batchnorm
from rtseg.runtimes.openvino import OpenVinoRuntime
from rtseg.runtimes.runtimes import RUNTIMES, Runtime, load_runtime, why_absent
from rtseg.runtimes.serving import ServingGraph
from rtseg.runtimes.tensorrt import EngineRecord, TensorRtRuntime, build_engine

__all__ = ["CompiledRuntime", "CudaGraphRuntime", "EngineRecord", "ExportReport", "OnnxRuntimeCuda", "OpenVinoRuntime", "RUNTIMES", "Runtime", "ServingGraph", "TensorRtRuntime", "build_engine", "export_onnx", "fold_batchnorm", "load_runtime", "why_absent"]
