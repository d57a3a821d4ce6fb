"""The ground: errors, registry, value objects, files, configuration, environment, run folder."""

from rtseg.core.architecture import OPERATORS, Architecture, Branch, OpSpec
from rtseg.core.config import Config
from rtseg.core.errors import RtsegError
from rtseg.core.registry import Registry
from rtseg.core.run_folder import RunFolder
from rtseg.core.values import EvalReport, LabelSet, Latency, ScoreOrigin, SegOutput

__all__ = ["OPERATORS", "Architecture", "Branch", "Config", "EvalReport", "LabelSet", "Latency", "OpSpec", "Registry",
           "RtsegError", "RunFolder", "ScoreOrigin", "SegOutput"]
