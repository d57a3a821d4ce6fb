"""Warm kernels: forks of one process that has imported everything, each a kernel of its own, none outliving its runner."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from nbclient.exceptions import DeadKernelError

from rtseg.runs import kernels
from rtseg.runs.kernels import WarmProcess, kernel_managers, warm_process
from rtseg.runs.notebooks import StageFailed, run_notebook

pytestmark = pytest.mark.skipif(not kernel_managers(), reason="forks of a warm process need Linux 5.3")
TELL = """
import json, os, sys, numpy as np
print(json.dumps({"pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0), "cwd": os.getcwd(), "mine": os.environ.get("MINE"),
                  "random": float(np.random.rand()), "warm": "rtseg.runs.searching" in sys.modules}))
"""


def run_cell(folder, source, **more):
    """Run a notebook of one cell; what it printed, read as JSON."""
    folder.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), folder / "one.ipynb")
    done = run_notebook(
        folder / "one.ipynb",
        folder / "executed/one.ipynb",
        parameters={},
        what="cell",
        cwd=folder,
        show_progress=False,
        **more,
    )
    return json.loads(nbformat.read(done, as_version=4).cells[-1].outputs[0].text)


def gone(pid):
    """Whether a process has ended, or only waits to be buried."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_until(true, seconds=30):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_kernels_are_forks_of_one_process_and_share_nothing_else(tmp_path):
    one, two = run_cell(tmp_path / "a", TELL, environment={"MINE": "1"}), run_cell(tmp_path / "b", TELL)
    assert one["parent"] == two["parent"] == kernels._current[0].process.pid and one["warm"] and two["warm"]
    assert one["session"] == one["pid"] != two["pid"] == two["session"]
    assert (one["mine"], two["mine"]) == ("1", None) and (one["cwd"], two["cwd"]) == (
        str(tmp_path / "a"),
        str(tmp_path / "b"),
    )
    assert one["random"] != two["random"], "forks must not begin with the same random numbers"
    wait_until(lambda: gone(one["pid"]) and gone(two["pid"]))


def test_a_killed_kernel_is_one_line_and_the_next_one_runs(tmp_path):
    with pytest.raises(StageFailed, match="cell lost its kernel"):
        run_cell(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert run_cell(tmp_path, TELL)["warm"]


def test_a_killed_warm_process_is_replaced(tmp_path):
    before = run_cell(tmp_path, TELL)["parent"]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: kernels._current[0].process.poll() is not None)
    after = run_cell(tmp_path, TELL)
    assert after["parent"] != before and after["warm"]


def test_variables_that_libraries_read_when_loaded_need_another_process(tmp_path, monkeypatch):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = warm_process(environment)
    assert warm_process({**environment, "ANYTHING": "else"}) is first
    second = warm_process({**environment, "OMP_NUM_THREADS": "2"})
    assert second is not first and first.process.returncode is not None, "the first has ended"


def test_asking_a_process_that_failed_is_refused():
    broken = WarmProcess({"PATH": "/nowhere", "PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"})
    with pytest.raises(DeadKernelError, match="has ended"):
        broken.fork([], environment={}, cwd="/")
    broken.close()


def test_nothing_outlives_a_killed_runner(tmp_path):
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[
                nbformat.v4.new_code_cell(
                    "import os, pathlib, time\npathlib.Path('pids').write_text(f'{os.getpid()} {os.getppid()}\\n')\ntime.sleep(120)"
                )
            ]
        ),
        tmp_path / "slow.ipynb",
    )
    script = f"from pathlib import Path; from rtseg.runs.notebooks import run_notebook; p = Path({str(tmp_path)!r}); run_notebook(p / 'slow.ipynb', p / 'out.ipynb', parameters={{}}, what='slow', cwd=p)"
    runner = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    wait_until(lambda: (tmp_path / "pids").is_file() and (tmp_path / "pids").read_text().endswith("\n"), 120)
    kernel, warm = (int(word) for word in (tmp_path / "pids").read_text().split())
    runner.kill()
    runner.wait()
    wait_until(lambda: gone(kernel) and gone(warm))
