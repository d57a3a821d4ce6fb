"""Every component page of `nbs/` is a test: its cells run in a process of its own, forked from one that has imported the package already."""

import multiprocessing
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "nbs"
ELSEWHERE = ("stages", "recipes", "guides")  # tests/ executes these, with parameters that make them short
PATIENCE = 600  # seconds after which a page counts as hanging


class PageFailed(Exception):
    """A page's own account of the cell that failed."""


def run_page(path: Path, log: Path) -> None:
    """Execute a notebook as `nbdev_test` does; ends this process, with 1 after an error, and everything said in `log`."""
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


def warm() -> multiprocessing.context.ForkServerContext:
    """Processes forked from one, started with the first page, that has imported every module of the package and what executes a page."""
    context = multiprocessing.get_context("forkserver")
    modules = (
        path.relative_to(ROOT).with_suffix("")
        for path in sorted((ROOT / "rtseg").glob("*/*.py"))
        if path.name != "__init__.py"
    )
    context.set_forkserver_preload(
        [".".join(module.parts) for module in modules]
        + ["nbdev.test", "IPython", "torch._dynamo", "plotly.io", "onnxruntime"]
    )
    return context


class Page(pytest.Item):
    """One notebook, executed from top to bottom."""

    def runtest(self) -> None:
        log = self.config._tmp_path_factory.mktemp("page") / "log.txt"
        process = warm().Process(target=run_page, args=(self.path, log))
        process.start()
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
        if process.exitcode != 0:
            said = log.read_text()[-6000:] if log.exists() else ""
            raise PageFailed(f"{self.path.relative_to(ROOT)} ended with {process.exitcode}\n{said}")

    def repr_failure(self, excinfo, style=None):
        return str(excinfo.value) if isinstance(excinfo.value, PageFailed) else super().repr_failure(excinfo, style)

    def reportinfo(self):
        return self.path, None, str(self.path.relative_to(ROOT))


class PageFile(pytest.File):
    """A notebook as pytest sees it: a file with one test."""

    def collect(self):
        yield Page.from_parent(self, name="page")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> PageFile | None:
    """Notebooks of components, wherever pytest is pointed at `nbs` or a part of it."""
    if file_path.suffix != ".ipynb" or file_path.name[0] in "_." or NOTEBOOKS not in file_path.parents:
        return None
    room = file_path.relative_to(NOTEBOOKS).parts[0]
    return None if room in ELSEWHERE else PageFile.from_parent(parent, path=file_path)
