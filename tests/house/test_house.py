"""The house rules: floors, notebooks in sync and clean, and the habits that keep pages readable."""

import ast
import configparser
import filecmp
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "rtseg"
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
STAGES = [p for p in NOTEBOOKS if p.parent.name in ("stages", "recipes")]
COMPONENTS = [p for p in NOTEBOOKS if p.parent.name not in ("stages", "recipes", "guides", "nbs")]
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.name not in ("_modidx.py", "__init__.py"))
FLOORS = (
    ("core",),
    ("layers",),
    ("data", "models"),
    ("runtimes",),
    ("latency", "evaluation"),
    ("training",),
    ("tuning", "compression", "shipping"),
    ("search",),
    ("viz",),
    ("runs", "explore", "web"),
    ("cli",),
    ("deployment", "pipeline"),
)
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_names(path: Path, tree: ast.AST) -> Iterator[str]:
    """Full names of what a module imports, relative imports resolved."""
    package = ["rtseg", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def imported_rooms(path: Path, tree: ast.AST) -> set[str]:
    """Rooms of rtseg that a module imports."""
    split = (name.split(".") for name in imported_names(path, tree))
    return {parts[1] for parts in split if parts[0] == "rtseg" and len(parts) > 1} & set(FLOOR)


def needed_modules() -> dict[str, set[str]]:
    """For each module of rtseg all modules that its import brings along, each after those that it needs itself; `CycleError` where there is no such order."""
    named = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in MODULES}
    direct = {
        name: {n for full in imported_names(p, ast.parse(p.read_text())) for n in (full, full.rpartition(".")[0])}
        & set(named)
        for name, p in named.items()
    }
    needed: dict[str, set[str]] = {}
    for name in TopologicalSorter(direct).static_order():
        needed[name] = direct[name].union(*(needed[n] for n in direct[name]))
    return needed


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_a_module_imports_only_from_floors_below(path):
    room = path.relative_to(PACKAGE).parts[0]
    if room not in FLOOR:
        assert path.name in ("__init__.py", "_modidx.py")
        return
    for other in imported_rooms(path, ast.parse(path.read_text())) - {room}:
        assert FLOOR[other] < FLOOR[room], (
            f"{name_of(path)} imports rtseg.{other}, which is not on a floor below rtseg.{room}"
        )


def test_the_import_check_sees_a_violation():
    path = PACKAGE / "layers" / "made_up.py"
    for code in (
        "from ..training.losses import x",
        "from rtseg.training import Trainer",
        "import rtseg.training.losses",
        "from .. import training",
    ):
        assert imported_rooms(path, ast.parse(code)) == {"training"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_import_hides_in_a_function(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert not imported_rooms(path, node), f"{name_of(path)}: {node.name} imports rtseg inside the function"


ALONE = """
import sys, json, importlib
made = {}
for name, needed in json.load(sys.stdin).items():
    for other in [m for m in sys.modules if m.split(".")[0] == "rtseg"]:
        del sys.modules[other]
    sys.modules.update({other: made[other] for other in needed})
    made[name] = importlib.import_module(name)
"""


def test_every_module_imports_alone():
    """No cycle: each module can be the first one that is imported, with nothing loaded but what it asks for (made once, in an order that exists)."""
    needed = {name: sorted(others) for name, others in needed_modules().items()}
    assert len(needed) == len(MODULES) and max(map(len, needed.values())) > 100
    command = [sys.executable, "-W", "ignore", "-c", ALONE]
    done = subprocess.run(command, input=json.dumps(needed), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_circle_of_imports_is_seen(monkeypatch, tmp_path):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "rtseg")
    (tmp_path / "rtseg/core").mkdir(parents=True)
    texts = {"a": "from .b import x", "b": "from ..core.c import x", "c": "import rtseg.core.a"}
    for name, text in texts.items():
        (tmp_path / f"rtseg/core/{name}.py").write_text(text)
    monkeypatch.setitem(globals(), "MODULES", sorted(tmp_path.rglob("*.py")))
    with pytest.raises(CycleError):
        needed_modules()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_stay_short(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of what nbdev reads and writes."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("nbs", "rtseg"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*-runs")
        )
    for name in ("settings.ini", "setup.py", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def nbdev(command: str, folder: Path) -> None:
    done = subprocess.run([str(Path(sys.executable).parent / command)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_notebooks_are_clean(copy):
    nbdev("nbdev_clean", copy)
    dirty = [name_of(p) for p in NOTEBOOKS if not filecmp.cmp(p, copy / p.relative_to(ROOT), shallow=False)]
    assert not dirty, f"run nbdev_clean: {dirty}"


def test_export_is_in_sync(copy):
    nbdev("nbdev_export", copy)
    stale = [
        name_of(p)
        for p in sorted(PACKAGE.rglob("*.py"))
        if not filecmp.cmp(p, copy / p.relative_to(ROOT), shallow=False)
    ]
    missing = [
        str(p.relative_to(copy)) for p in (copy / "rtseg").rglob("*.py") if not (ROOT / p.relative_to(copy)).exists()
    ]
    assert not stale and not missing, f"run nbdev_export: differ {stale}, missing {missing}"


def cells(path: Path, kind: str) -> list[str]:
    return [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_notebook_opens_with_title_and_summary(path):
    opening = cells(path, "markdown")[0]
    assert re.match(r"# \S", opening) and re.search(r"^> \S", opening, re.M)
    assert path.stat().st_size < 600_000


@pytest.mark.parametrize("path", COMPONENTS, ids=name_of)
def test_exported_cells_are_short_and_shown(path):
    code = cells(path, "code")
    assert code[0].startswith("#| default_exp ")
    exported = [i for i, source in enumerate(code) if source.startswith("#| export")]
    for i in exported:
        lines = [line for line in code[i].splitlines() if line.strip()]
        assert len(lines) <= 80, f"{name_of(path)}: an exported cell of {len(lines)} lines"


def test_most_exported_definitions_are_followed_by_a_check():
    followed = total = 0
    for path in COMPONENTS:
        code = cells(path, "code")
        for here, after in pairwise([*code, ""]):
            if here.startswith("#| export") and re.search(r"^(def|class|async def) ", here, re.M):
                total += 1
                followed += bool(after) and not after.startswith("#| export")
    assert followed / total >= 0.71, f"{followed} of {total} exported definitions are followed by a cell that runs them"


@pytest.mark.parametrize("path", STAGES, ids=name_of)
def test_a_stage_notebook_is_thin(path):
    notebook = nbformat.read(path, as_version=4)
    told = [c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(told) == 1 and len(ast.parse(told[0]).body) <= 16, "one cell of parameters, 16 at most"
    for source in cells(path, "code"):
        assert not source.startswith(("#| export", "#| default_exp"))
        assert source in told or len(source.splitlines()) <= 20


def test_no_notebook_is_left_out_of_testing():
    assert not list((ROOT / "nbs").rglob(".notest"))
    for path in NOTEBOOKS:
        for source in cells(path, "code"):
            assert "#| eval: false" not in source, f"{name_of(path)} has a cell that is never run"


def test_the_runtime_does_not_need_nbdev():
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "settings.ini")
    assert not re.search(r"\b(nbdev|fastcore)\b", settings["DEFAULT"]["requirements"])
    for path in MODULES:
        assert not re.search(r"^\s*(from|import) (nbdev|fastcore)", path.read_text(), re.M), name_of(path)


def exported(path: Path) -> list[str]:
    """The names that a module's `__all__` lists."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


def test_a_name_has_one_home():
    """Exported functions and classes; a network's own parts and a page's own tables of constants may be called as the paper calls them."""
    homes: dict[str, list[str]] = {}
    for path in (p for p in MODULES if p.parent.name != "models"):
        for name in exported(path):
            homes.setdefault(name, []).append(name_of(path))
    shared = {n: where for n, where in homes.items() if len(where) > 1 and not n.isupper()}
    assert not shared, "a name has one home: " + "; ".join(f"{n} in {w}" for n, w in shared.items())


TYPED_HELP = re.compile(
    r"\bhelp=|(Option|Argument)( \| None)?$|^typer\.Context$"
)  # what the command line says with --help


def says_its_arguments(function: ast.FunctionDef, lines: list[str]) -> bool:
    """Whether every argument has its comment (docments): meaning, shape, unit, allowed values; a command's options have their help."""
    told = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return all(
        "  # " in lines[a.end_lineno - 1] or (a.annotation and TYPED_HELP.search(ast.unparse(a.annotation)))
        for a in told
    )


def test_public_functions_say_their_arguments():
    """Every public function with three or more arguments, at the top of a module."""
    silent = []
    for path in MODULES:
        text = path.read_text()
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                count = len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])
                if count >= 3 and not says_its_arguments(node, text.splitlines()):
                    silent.append(f"{name_of(path)}: {node.name}")
    assert not silent, f"say of each argument what it is, in a comment behind it: {'; '.join(silent)}"


def test_no_two_pages_of_a_room_have_the_same_number():
    """The tens are chapters: 31 to 39 are one; a page's number says where in the room it stands."""
    for room in sorted({path.parent for path in NOTEBOOKS} - {ROOT / "nbs"}):
        numbers = [path.name[:3] for path in NOTEBOOKS if path.parent == room]
        assert all(re.fullmatch(r"\d\d_", number) for number in numbers), f"{name_of(room)}: two digits and a name"
        twice = sorted({number[:2] for number in numbers if numbers.count(number) > 1})
        assert not twice, f"{name_of(room)}: several pages have the numbers {', '.join(twice)}"
