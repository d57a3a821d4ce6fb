"""Networks outside training: export, what is inside the graph, and the runtimes that execute it."""

from .compiled import CompiledRuntime as CompiledRuntime
from .compiled import CudaGraphRuntime as CudaGraphRuntime
from .compiled import OnnxRuntimeCuda as OnnxRuntimeCuda
from .export import ExportReport as ExportReport
from .export import export_onnx as export_onnx
from .folding import fold_batchnorm as fold_batchnorm
from .openvino import OpenVinoRuntime as OpenVinoRuntime
from .runtimes import RUNTIMES as RUNTIMES
from .runtimes import Runtime as Runtime
from .runtimes import load_runtime as load_runtime
from .runtimes import why_absent as why_absent
from .serving import ServingGraph as ServingGraph
from .tensorrt import EngineRecord as EngineRecord
from .tensorrt import TensorRtRuntime as TensorRtRuntime
from .tensorrt import build_engine as build_engine
