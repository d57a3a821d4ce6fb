"""The names of `rtseg.runtimes`, `rtseg.latency` and `rtseg.shipping` in one place, for people who know them from here."""

from rtseg.latency import EndToEnd, compare_protocols, latency_of, measure_end_to_end, measure_latency, measure_memory, serve
from rtseg.runtimes import CompiledRuntime, CudaGraphRuntime, EngineRecord, ExportReport, OnnxRuntimeCuda, OpenVinoRuntime, RUNTIMES, Runtime, ServingGraph, TensorRtRuntime, build_engine, export_onnx, fold_batchnorm, load_runtime, why_absent
from rtseg.shipping import BenchRecord, Candidate, Card, FormScore, RuntimeCheck, Tuned, autotune, bench_cases, check_runtime, compare_bench, evaluate_form, list_candidates, load_card, quantize, run_bench, ship, write_shipped

__all__ = ["BenchRecord", "Candidate", "Card", "CompiledRuntime", "CudaGraphRuntime", "EndToEnd", "EngineRecord", "ExportReport", "FormScore", "OnnxRuntimeCuda", "OpenVinoRuntime", "RUNTIMES", "Runtime", "RuntimeCheck", "ServingGraph", "TensorRtRuntime", "Tuned", "autotune", "bench_cases", "build_engine", "check_runtime", "compare_bench", "compare_protocols", "evaluate_form", "export_onnx", "fold_batchnorm", "latency_of", "list_candidates", "load_card", "load_runtime", "measure_end_to_end", "measure_latency", "measure_memory", "quantize", "run_bench", "serve", "ship", "why_absent", "write_shipped"]
