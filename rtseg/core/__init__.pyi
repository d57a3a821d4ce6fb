"""The ground: errors, registry, value objects, files, configuration, environment, run folder."""

from .architecture import Architecture as Architecture
from .architecture import Branch as Branch
from .architecture import OPERATORS as OPERATORS
from .architecture import OpSpec as OpSpec
from .config import Config as Config
from .errors import RtsegError as RtsegError
from .registry import Registry as Registry
from .results import RunResults as RunResults
from .results import ScoredNetwork as ScoredNetwork
from .run_folder import RunFolder as RunFolder
from .values import EvalReport as EvalReport
from .values import LabelSet as LabelSet
from .values import Latency as Latency
from .values import ScoreOrigin as ScoreOrigin
from .values import SegOutput as SegOutput
from .weights import NetworkSpec as NetworkSpec
from .weights import WeightsInfo as WeightsInfo
from .weights import read_info as read_info
