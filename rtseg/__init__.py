"""rtseg: a notebook-first research workbench for real-time semantic segmentation."""

__version__ = "0.1.0"
