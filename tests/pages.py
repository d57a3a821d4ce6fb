"""Every component page of `nbs/` is a test: its cells run in a process of its own, forked from one that has imported the package already."""

import multiprocessing
from pathlib import Path

import pytest
from tests.page_process import NOTEBOOKS, ROOT, run_page

ELSEWHERE = ("stages", "recipes", "guides")  # tests/ executes these, with parameters that make them short
PATIENCE = 600  # seconds after which a page counts as hanging


class PageFailed(Exception):
    """A page's own account of the cell that failed."""


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
        + ["tests.page_process", "nbdev.test", "IPython", "torch._dynamo", "plotly.io", "onnxruntime"]
        + ["torchmetrics.classification", "torch.onnx._internal.exporter._core", "IPython.core.magics.execution"]
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
