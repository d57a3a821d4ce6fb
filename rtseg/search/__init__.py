"""The search: space, supernet, latency table, co-search and its health, decoding, published FasterSeg files."""

from rtseg.core.architecture import Architecture
from rtseg.search.cosearch import SearchConfig, SearchState, cosearch, search_variation
from rtseg.search.decoding import Decoded, decode
from rtseg.search.expected import ExpectedLatency
from rtseg.search.health import Health, assess
from rtseg.search.inherit import derive, inherit
from rtseg.search.latency_table import LatencyTable
from rtseg.search.layerwise import LayerPrices, fit_prices, layer_features
from rtseg.search.logits import ArchLogits
from rtseg.search.prediction import Prediction, Predictor, fit_predictor, judge
from rtseg.search.pretraining import PretrainConfig, pretrain
from rtseg.search.space import SearchSpace, sample_within
from rtseg.search.supernet import Supernet
from rtseg.search.tables import Comparison, compare_tables, extend_table, merge_tables

__all__ = ["ArchLogits", "Architecture", "Comparison", "Decoded", "ExpectedLatency", "Health", "LatencyTable", "LayerPrices", "Prediction", "Predictor", "PretrainConfig",
           "SearchConfig", "SearchSpace", "SearchState", "Supernet", "assess", "compare_tables", "cosearch", "decode", "derive", "extend_table", "fit_predictor", "fit_prices",
           "inherit", "judge", "layer_features", "merge_tables", "pretrain", "sample_within", "search_variation"]
