"""The three journeys of guide 12 as the program itself takes them: which files it comes to, and to which it comes back.

    python benchmarks/journeys.py                  # a minute; prints the ways, writes results/journeys.json
    python benchmarks/journeys.py predict run      # some of them, printed only

A *stop* is a file of `rtseg/` in which a function is called for the first time after the command has begun, in its process; neighbouring stops in one file are one. A *return* is a stop in a file that was left before.
What a journey uses rather than visits is no stop: `core` (files, errors, plain values), the inside of networks (`layers`, and pages of `models` that define modules), what values do with themselves (methods of dataclasses, named tuples, settings and errors), functions inside functions, and what is called by an import.
"""

import contextlib
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module
from itertools import groupby
from pathlib import Path
from types import FrameType

import numpy as np
from PIL import Image
from torch import nn

from rtseg.cli.main import main as rtseg
from rtseg.core.files import write_json
from rtseg.core.weights import InputSpec, WeightsInfo
from rtseg.data.labels import CITYSCAPES
from rtseg.data.scenes import make_scenes
from rtseg.evaluation.evaluator import save_trained
from rtseg.models import create_model
from rtseg.models.loading import spec_of

PACKAGE = Path(__file__).resolve().parents[1] / "rtseg"
BEFORE = {"predict": 16, "export": 15, "run": 9}  # returns that issue 12 counted by hand: half of them had to go
LINES = {  # what is typed, and the function with which the journey begins
    "predict": ("predict {0}/net.safetensors {0}/photos --out {0}/masks --precision fp32", "predict_command"),
    "export": ("export {0}/net.safetensors {0}/net.onnx --size 64x96", "export"),
    "export --auto": (
        "export {0}/net.safetensors {0}/best.onnx --auto --data {0}/data --dataset synthetic --images 2 --runtime onnxruntime --precision fp32",
        "export",
    ),
    "run": ("run --preset smoke --out {0}/run --stages data", "run_command"),
}
Call = tuple[str, str]  # module below rtseg, qualified name of a function
Stop = tuple[str, list[str]]  # module, functions that are new there


def is_importing(frame: FrameType | None) -> bool:
    """Whether a call is part of an import: the body of a class, or what a module calls while it is loaded."""
    while frame is not None and "importlib" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


@contextlib.contextmanager
def followed() -> Iterator[list[Call]]:
    """The package's functions that this thread, and those that it starts, call for the first time inside."""
    calls: dict[Call, None] = {}
    order: list[Call] = []

    def watch(frame: FrameType, event: str, arg: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(f"{PACKAGE}/"):
            return
        call = (code.co_filename[len(f"{PACKAGE}/") : -len(".py")].replace("/", "."), code.co_qualname)
        if call not in calls and not is_importing(frame):
            calls[call] = None
            order.append(call)

    threading.setprofile(watch)  # pictures are read and kernels are started by threads
    sys.setprofile(watch)
    try:
        yield order
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


@cache
def is_visited(module: str, function: str) -> bool:
    """Whether a function is a place of a journey, and not what is only used on it."""
    room, names = module.split(".")[0], vars(import_module(f"rtseg.{module}"))
    own = [thing for thing in names.values() if isinstance(thing, type) and thing.__module__ == f"rtseg.{module}"]
    inside = room in ("core", "layers") or room == "models" and any(issubclass(kind, nn.Module) for kind in own)
    owner = names.get(function.split(".")[0])
    value = isinstance(owner, type) and (
        is_dataclass(owner) or hasattr(owner, "model_fields") or issubclass(owner, tuple | Exception)
    )
    return not (inside or value or "<" in function)


def stops(calls: list[Call], start: str) -> list[Stop]:
    """The files of a journey in their order, from the function `start` on, each with what was new there."""
    begun = next(i for i, (_, function) in enumerate(calls) if function == start)
    order = [call for call in calls[begun:] if is_visited(*call)]
    return [(file, [name for _, name in group]) for file, group in groupby(order, key=lambda call: call[0])]


def returns(way: list[Stop]) -> int:
    """How many stops are in a file that was left before."""
    return len(way) - len({file for file, _ in way})


def prepare(folder: Path) -> None:
    """A trained network that says everything about itself, and one photograph."""
    network = create_model("fastscnn", CITYSCAPES.num_classes)
    info = WeightsInfo(network=spec_of(network), labels=CITYSCAPES, input=InputSpec((64, 96)))
    save_trained(folder / "net.safetensors", network.state_dict(), epoch=1, which="best", seed=0, info=info)
    (folder / "photos").mkdir()
    Image.fromarray(np.full((64, 96, 3), 90, np.uint8)).save(folder / "photos/a.png")


def way_of(name: str, folder: Path, program: Callable[[list[str]], object] = rtseg) -> list[Stop]:
    """The journey `name` in a prepared folder."""
    line, start = LINES[name]
    with followed() as calls, contextlib.suppress(SystemExit):
        program(line.format(folder).split())
    return stops(calls, start)


def main(names: list[str]) -> None:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        make_scenes(Path(folder) / "data", counts={"train": 2, "val": 2, "test": 1}, size=(64, 96))
        for name in names or LINES:
            found[name] = way_of(name, Path(folder))
    for name, way in found.items():
        print(f"{name}: {len({file for file, _ in way})} files, {len(way)} stops, {returns(way)} returns")
        for file, functions in way:
            print(f"    {file}: {', '.join(functions)}")
    if not names:
        ways = [{"name": n, "before": BEFORE.get(n), "returns": returns(w), "stops": w} for n, w in found.items()]
        write_json(Path(__file__).parent / "results/journeys.json", {"journeys": ways})


if __name__ == "__main__":
    main(sys.argv[1:])
