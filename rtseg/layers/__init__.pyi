"""The blocks that networks share."""

from .blocks import BatchNorm as BatchNorm
from .blocks import ClassifierHead as ClassifierHead
from .blocks import ConvBNAct as ConvBNAct
from .blocks import activation as activation
from .blocks import resize as resize
from .operators import build_operator as build_operator
from .surgery import keep_channels as keep_channels
from .surgery import keep_layers as keep_layers
