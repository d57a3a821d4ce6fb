"""From a preset to a report: configuration, stages, the runner, the command line."""

from rtseg.pipeline.config import RunConfig, list_presets, load_preset
from rtseg.pipeline.report import write_report
from rtseg.pipeline.runner import RunResult, run
from rtseg.pipeline.stage import Stage, open_stage

__all__ = ["RunConfig", "RunResult", "Stage", "list_presets", "load_preset", "open_stage", "run", "write_report"]
