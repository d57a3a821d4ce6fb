"""What runs in a page's own process: imported by the warm process that pages are forked from, so it imports nothing that a page does not need (pytest alone takes half a second)."""

import gc
import multiprocessing
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "nbs"


def run_page(path: Path, log: Path) -> None:
    """Execute a notebook as `nbdev_test` does; ends this process, with 1 after an error, and everything said in `log`."""
    gc.freeze()  # what is imported lives as long as the page
    gc.set_threshold(50_000, 20, 50)  # as in tests/suite.py
    with open(log, "w") as said:
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
        os.chdir(NOTEBOOKS)
        multiprocessing.set_start_method("fork", force=True)  # what a page starts sees the page's own definitions
        from nbdev.config import get_config
        from nbdev.test import test_nb

        passed, _ = test_nb(path, skip_flags=get_config().tst_flags.split(), basepath=ROOT)
        sys.stderr.flush()
    os._exit(0 if passed else 1)
