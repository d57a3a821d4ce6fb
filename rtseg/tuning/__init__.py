"""Hyper-parameter search: a space in YAML, a study that many workers share, trials that are training runs."""

from rtseg.tuning.results import TrialRecord, TuneResult, importance
from rtseg.tuning.space import Parameter, Space, list_spaces, load_space
from rtseg.tuning.tuner import tune

__all__ = ["Parameter", "Space", "TrialRecord", "TuneResult", "importance", "list_spaces", "load_space", "tune"]
