"""Networks outside training: export, what is inside the graph, runtimes, and the clock."""
from rtseg.deployment.compiled import CompiledRuntime, CudaGraphRuntime, OnnxRuntimeCuda
from rtseg.deployment.export import ExportReport, export_onnx
from rtseg.deployment.measuring import measure_latency
from rtseg.deployment.openvino import OpenVinoRuntime
from rtseg.deployment.runtimes import RUNTIMES, Runtime, load_runtime, why_absent
from rtseg.deployment.serving import ServingGraph
from rtseg.deployment.targets import latency_of
from rtseg.deployment.tensorrt import EngineRecord, TensorRtRuntime, build_engine

__all__ = ["RUNTIMES", "CompiledRuntime", "CudaGraphRuntime", "EngineRecord", "ExportReport", "OnnxRuntimeCuda", "OpenVinoRuntime", "Runtime",
           "ServingGraph", "TensorRtRuntime", "build_engine", "export_onnx", "latency_of", "load_runtime", "measure_latency", "why_absent"]
