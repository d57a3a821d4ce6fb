"""The networks, by name, and what all of them promise."""

from rtseg.models.checkpoints import convert_checkpoint
from rtseg.models.contract import SegNetwork, count_macs, count_parameters
from rtseg.models.registry import create_model, list_models, model_info

__all__ = ["SegNetwork", "convert_checkpoint", "count_macs", "count_parameters", "create_model", "list_models", "model_info"]
