"""Fixtures that every room's tests share."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("RTSEG_SHARED", ROOT.parent / "shared"))


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


@pytest.fixture
def typed(capsys):
    """Type a command line; returns its exit code, stdout and stderr."""
    from rtseg.cli import main as cli  # the command line is imported by the tests that type

    def type_line(line):
        with pytest.raises(SystemExit) as end:
            cli.main(line if isinstance(line, list) else line.split())
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return type_line
