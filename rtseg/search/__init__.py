"""The search: space, supernet, latency table, co-search and its health, decoding, published FasterSeg files."""

from rtseg.core.architecture import Architecture
from rtseg.search.cosearch import SearchConfig, SearchState, cosearch, search_variation
from rtseg.search.decoding import Decoded, decode
from rtseg.search.expected import ExpectedLatency
from rtseg.search.health import Health, assess
from rtseg.search.inherit import derive, inherit
from rtseg.search.latency_table import LatencyTable
from rtseg.search.logits import ArchLogits
from rtseg.search.pretraining import PretrainConfig, pretrain
from rtseg.search.space import SearchSpace, sample_within
from rtseg.search.supernet import Supernet

__all__ = ["ArchLogits", "Architecture", "Decoded", "ExpectedLatency", "Health", "LatencyTable", "PretrainConfig", "SearchConfig", "SearchSpace", "SearchState",
           "Supernet", "assess", "cosearch", "decode", "derive", "inherit", "pretrain", "sample_within", "search_variation"]
