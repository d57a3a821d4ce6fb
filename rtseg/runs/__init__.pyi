"""From a preset to a report: configuration, plan, stages, the runner, sweeps."""

from .config import RunConfig as RunConfig
from .config import list_presets as list_presets
from .config import load_preset as load_preset
from .report import write_report as write_report
from .runner import RunResult as RunResult
from .runner import run as run
from .stage import Stage as Stage
from .stage import open_stage as open_stage
