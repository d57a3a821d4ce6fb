"""The names of `rtseg.runs`, for people who know them from here."""

from rtseg.runs import RunConfig, RunResult, Stage, list_presets, load_preset, open_stage, run, write_report

__all__ = ["RunConfig", "RunResult", "Stage", "list_presets", "load_preset", "open_stage", "run", "write_report"]
