"""Networks outside training: export, runtimes, and the clock."""
from rtseg.deployment.export import ExportReport, export_onnx
from rtseg.deployment.measuring import measure_latency
from rtseg.deployment.runtimes import RUNTIMES, Runtime, load_runtime

__all__ = ["RUNTIMES", "ExportReport", "Runtime", "export_onnx", "load_runtime", "measure_latency"]
