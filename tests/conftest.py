"""Fixtures that every room's tests share."""

import os
from pathlib import Path

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores: more threads each, or in each of their children, would only wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

os.environ.setdefault("RTSEG_WAIT_FOR_QUIET", "0")  # tests run beside others: nothing waits for a quiet machine, here or in the kernels that tests start

LONG_FIRST = ("test_demo", "test_end_to_end", "test_guides", "test_recipe_runs", "test_pipeline")

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("RTSEG_SHARED", ROOT.parent / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes come first, so that no worker is left alone with one of them at the end."""
    items.sort(key=lambda item: LONG_FIRST.index(item.path.stem) if item.path.stem in LONG_FIRST else len(LONG_FIRST))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of facts and real images beside the checkout; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip(f"the facts and images in {SHARED} are not here")
    return SHARED


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root."""
    return ROOT


@pytest.fixture(autouse=True)
def threads_restored():
    """A test that changes the number of threads does not change it for the next."""
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture
def one_thread(threads_restored):
    """One thread for the test, so that its sums do not depend on the machine's load."""
    torch.set_num_threads(1)
