"""Hyper-parameter search: a space in YAML, a study that many workers share, trials that are training runs."""

from .results import TrialRecord as TrialRecord
from .results import TuneResult as TuneResult
from .results import importance as importance
from .space import Parameter as Parameter
from .space import Space as Space
from .space import list_spaces as list_spaces
from .space import load_space as load_space
from .tuner import tune as tune
