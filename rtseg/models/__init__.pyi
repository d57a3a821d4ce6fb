"""The networks, by name, and what all of them promise."""

from .checkpoints import convert_checkpoint as convert_checkpoint
from .contract import SegNetwork as SegNetwork
from .contract import count_macs as count_macs
from .contract import count_parameters as count_parameters
from .features import FeaturesOnly as FeaturesOnly
from .features import features_only as features_only
from .loading import LoadedNetwork as LoadedNetwork
from .loading import load_network as load_network
from .registry import create_model as create_model
from .registry import list_models as list_models
from .registry import model_info as model_info
