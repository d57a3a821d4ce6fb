"""rtseg: a notebook-first research workbench for real-time semantic segmentation."""

import os

__version__ = "0.1.0"

os.environ.setdefault(
    "THP_MEM_ALLOC_ENABLE", "1"
)  # PyTorch reads it at its first tensor: large ones in pages of 2 MB, see rtseg.core.allocation
