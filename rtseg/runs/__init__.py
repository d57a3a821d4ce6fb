"""From a preset to a report: configuration, plan, stages, the runner, sweeps."""

from rtseg.runs.config import RunConfig, list_presets, load_preset
from rtseg.runs.report import write_report
from rtseg.runs.runner import RunResult, run
from rtseg.runs.stage import Stage, open_stage

__all__ = ["RunConfig", "RunResult", "Stage", "list_presets", "load_preset", "open_stage", "run", "write_report"]
