"""Networks outside training: export, what is inside the graph, runtimes, and the clock."""
from rtseg.deployment.export import ExportReport, export_onnx
from rtseg.deployment.measuring import measure_latency
from rtseg.deployment.openvino import OpenVinoRuntime
from rtseg.deployment.runtimes import RUNTIMES, Runtime, load_runtime
from rtseg.deployment.serving import ServingGraph

__all__ = ["RUNTIMES", "ExportReport", "OpenVinoRuntime", "Runtime", "ServingGraph", "export_onnx", "load_runtime", "measure_latency"]
