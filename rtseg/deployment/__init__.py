"""Networks outside training: export, what is inside the graph, runtimes, and the clock."""
from rtseg.deployment.autotune import Tuned, autotune, ship
from rtseg.deployment.bench import BenchRecord, bench_cases, compare_bench, run_bench
from rtseg.deployment.candidates import Candidate, list_candidates
from rtseg.deployment.cards import Card, load_card, write_shipped
from rtseg.deployment.checking import RuntimeCheck, check_runtime
from rtseg.deployment.compiled import CompiledRuntime, CudaGraphRuntime, OnnxRuntimeCuda
from rtseg.deployment.export import ExportReport, export_onnx
from rtseg.deployment.faithful import FormScore, evaluate_form
from rtseg.deployment.folding import fold_batchnorm
from rtseg.deployment.measuring import measure_latency
from rtseg.deployment.memory import measure_memory
from rtseg.deployment.openvino import OpenVinoRuntime
from rtseg.deployment.parts import EndToEnd, measure_end_to_end, serve
from rtseg.deployment.protocols import compare_protocols
from rtseg.deployment.quantization import quantize
from rtseg.deployment.runtimes import RUNTIMES, Runtime, load_runtime, why_absent
from rtseg.deployment.serving import ServingGraph
from rtseg.deployment.targets import latency_of
from rtseg.deployment.tensorrt import EngineRecord, TensorRtRuntime, build_engine

__all__ = ["RUNTIMES", "RuntimeCheck", "check_runtime", "BenchRecord", "Candidate", "Card", "CompiledRuntime", "CudaGraphRuntime", "EndToEnd", "EngineRecord", "ExportReport",
           "FormScore", "OnnxRuntimeCuda", "OpenVinoRuntime", "Runtime", "ServingGraph", "TensorRtRuntime", "Tuned", "autotune", "bench_cases",
           "build_engine", "compare_bench", "compare_protocols", "evaluate_form", "export_onnx", "fold_batchnorm", "latency_of", "list_candidates",
           "load_card", "load_runtime", "measure_end_to_end", "measure_latency", "measure_memory", "quantize", "run_bench", "serve", "ship",
           "why_absent", "write_shipped"]
