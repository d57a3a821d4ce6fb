"""Networks outside training: export, what is inside the graph, runtimes, and the clock."""
from rtseg.deployment.bench import BenchRecord, bench_cases, compare_bench, run_bench
from rtseg.deployment.compiled import CompiledRuntime, CudaGraphRuntime, OnnxRuntimeCuda
from rtseg.deployment.export import ExportReport, export_onnx
from rtseg.deployment.folding import fold_batchnorm
from rtseg.deployment.measuring import measure_latency
from rtseg.deployment.memory import measure_memory
from rtseg.deployment.openvino import OpenVinoRuntime
from rtseg.deployment.parts import EndToEnd, measure_end_to_end, serve
from rtseg.deployment.protocols import compare_protocols
from rtseg.deployment.runtimes import RUNTIMES, Runtime, load_runtime, why_absent
from rtseg.deployment.serving import ServingGraph
from rtseg.deployment.targets import latency_of
from rtseg.deployment.tensorrt import EngineRecord, TensorRtRuntime, build_engine

__all__ = ["RUNTIMES", "BenchRecord", "CompiledRuntime", "CudaGraphRuntime", "EndToEnd", "EngineRecord", "ExportReport", "OnnxRuntimeCuda",
           "OpenVinoRuntime", "Runtime", "ServingGraph", "TensorRtRuntime", "bench_cases", "build_engine", "compare_bench", "compare_protocols",
           "export_onnx", "fold_batchnorm", "latency_of", "load_runtime", "measure_end_to_end", "measure_latency", "measure_memory", "run_bench",
           "serve", "why_absent"]
