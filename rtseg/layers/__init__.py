"""The blocks that networks share."""

from rtseg.layers.blocks import BatchNorm, ClassifierHead, ConvBNAct, activation, resize
from rtseg.layers.operators import build_operator

__all__ = ["BatchNorm", "ClassifierHead", "ConvBNAct", "activation", "build_operator", "resize"]
