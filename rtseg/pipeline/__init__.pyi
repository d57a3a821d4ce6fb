"""The names of `rtseg.runs`, for people who know them from here."""

from rtseg.runs import RunConfig as RunConfig
from rtseg.runs import RunResult as RunResult
from rtseg.runs import Stage as Stage
from rtseg.runs import list_presets as list_presets
from rtseg.runs import load_preset as load_preset
from rtseg.runs import open_stage as open_stage
from rtseg.runs import run as run
from rtseg.runs import write_report as write_report
