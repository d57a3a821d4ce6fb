"""What starting costs: processor seconds and memory of a command line, and the overhead of a stage, with a warm kernel and with a new one.

    OMP_NUM_THREADS=2 python benchmarks/startup.py      # about a minute

A stage's overhead is the whole time of an executed notebook that imports what a stage imports and computes nothing. The ratio of both kinds of kernel is of one run. Writes results/startup_<instructions>.json.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import nbformat

from rtseg.core.environment import environment_record
from rtseg.core.files import write_json
from rtseg.core.machine import processor_record
from rtseg.core.load import WATCH, busy_text
from rtseg.runs import notebooks

COMMANDS = ("--help", "models", "models fasterseg", "lab --help", "run --help")
STAGE = "from rtseg.runs.parameters import *\nfrom rtseg.runs.stage import open_stage\nfrom rtseg.runs.steps import open_splits\nfrom rtseg.runs.searching import *\nfrom rtseg.runs.networks import *"


def command_cost(line: str, *, times: int = 3) -> dict[str, float]:
    """The least processor seconds of `rtseg LINE`, and its memory in MB."""
    script = f"from rtseg.cli.main import main\ntry:\n    main({line.split()!r})\nfinally:\n    print(open('/proc/self/status').read())"
    seconds, memory = [], 0.0
    for _ in range(times):
        before = os.times()
        told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
        memory = int(re.search(r"VmHWM:\s+(\d+) kB", told)[1]) / 1024  # what wait4 tells begins with this process's own
    return {"processor_s": round(min(seconds), 2), "memory_mb": round(memory)}


def stage_overheads(folder: Path, *, times: int = 4) -> dict[str, list[float]]:
    """Seconds of an empty stage, again and again, by the kind of kernel; the first warm one pays the imports."""
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(STAGE)]), folder / "stage.ipynb")

    def seconds() -> float:
        begun = time.monotonic()
        notebooks.run_notebook(
            folder / "stage.ipynb",
            folder / "out/stage.ipynb",
            parameters={},
            what="stage",
            cwd=folder,
            show_progress=False,
        )
        return round(time.monotonic() - begun, 2)

    warm = [seconds() for _ in range(times)]
    with patch.object(notebooks, "kernel_managers", lambda: {}):
        return {"warm": warm, "new": [seconds() for _ in range(times)]}


def main() -> None:
    taken, cores = WATCH.look()
    commands = {f"rtseg {line}": command_cost(line) for line in COMMANDS}
    for line, cost in commands.items():
        print(f"{line:<24} {cost['processor_s']:.2f} s of processor time, {cost['memory_mb']} MB")
    with tempfile.TemporaryDirectory() as folder:
        stages = stage_overheads(Path(folder))
    best = {kind: min(seconds[1:]) for kind, seconds in stages.items()}
    print(
        f"a stage's overhead: {best['warm']:.2f} s with a warm kernel ({stages['warm'][0]:.1f} s for the first), {best['new']:.2f} s with a new one, ratio {best['new'] / best['warm']:.1f}"
    )
    record = {
        "commands": commands,
        "stage_s": stages,
        "ratio": round(best["new"] / best["warm"], 2),
        "busy": busy_text(taken, cores),
        "processor": processor_record(),
        "environment": environment_record(),
    }
    kind = processor_record()["capability"].lower().replace(" ", "")
    write_json(Path(__file__).parent / f"results/startup_{kind}.json", record)


if __name__ == "__main__":
    main()
