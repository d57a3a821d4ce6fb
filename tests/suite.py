"""What all tests and pages share: threads, caches of their own, the order of long files, and the few networks of `make quick`."""

import gc
import os
import shutil
import tempfile

import pytest

WORKER = "PYTEST_XDIST_WORKER" in os.environ
LONG_FIRST = (
    "test_models",
    "test_recipe_runs",
    "test_zoo",
    "test_guides",
    "test_end_to_end",
    "test_demo",
    "test_checking",
    "test_house",
    "test_variants",
    "test_resume",
    "test_compression",
    "tuner",
    "cosearch",
    "pretraining",
)

if (
    WORKER
):  # a worker and all that it starts stay on one core: two that use two threads each would only wait for one another
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(cores)]})
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
else:  # the user's caches are neither read nor written; workers and what tests start inherit this folder, so that a session measures a machine once
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="rtseg-tests-")

os.environ.setdefault(
    "RTSEG_WAIT_FOR_QUIET", "0"
)  # tests run beside others: nothing waits for a quiet machine, here or in the kernels that tests start
gc.set_threshold(
    50_000, 20, 50
)  # tracers make millions of small objects that live: looking through all of them again and again is a fifth of an export


def pytest_addoption(parser: pytest.Parser) -> None:
    """The networks that sweeps over the registry are limited to."""
    parser.addoption(
        "--networks", metavar="NAME,...", help="of tests with a network as a parameter, only those of these networks"
    )


def network_of(item: pytest.Item, known: set[str]) -> str | None:
    """The network that an item is about, or None."""
    params = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return next(
        (value.partition("+")[0] for value in params if isinstance(value, str) and value.partition("+")[0] in known),
        None,
    )


def place(item: pytest.Item) -> int:
    """Where an item's file stands among those that take minutes; a page's number does not count."""
    name = item.path.stem.lstrip("0123456789_")
    return LONG_FIRST.index(name) if name in LONG_FIRST else len(LONG_FIRST)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The files that take minutes come first, so that no worker is left alone with one of them at the end; networks that were not asked for are left out."""
    items.sort(key=place)
    if config.option.networks:
        from rtseg.models import list_models

        known, wanted = set(list_models()), set(config.option.networks.split(","))
        if wanted - known:
            raise pytest.UsageError(f"--networks: {', '.join(sorted(wanted - known))} not in the registry")
        left_out = [item for item in items if network_of(item, known) not in (None, *wanted)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def pytest_unconfigure() -> None:
    """The session's caches go with it."""
    if not WORKER:
        shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)
