"""Every stage, recipe and guide with parameters lists them with types and help, and refuses bad ones in its first cell."""

import ast
import json
from pathlib import Path

import nbformat
import papermill
import pytest

from rtseg.core.errors import ConfigError
from rtseg.runs import parameters
from rtseg.runs.parameters import check_kind, check_parameters, check_stage, type_named, read_numbers, read_parameters
from rtseg.runs.plans import PLANS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [p for room in ("stages", "recipes", "guides") for p in sorted((ROOT / "nbs" / room).glob("*.ipynb"))]
STAGES = {spec.notebook: spec.name for plan in PLANS.values() for spec in plan}


def tagged(path):
    """The index of the cell tagged `parameters`, None without one, and the cells."""
    cells = nbformat.read(path, as_version=4).cells
    return next((i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])), None), cells


def name_of(path):
    return f"{path.parent.name}/{path.stem}"


WITH = [p for p in PAGES if tagged(p)[0] is not None]


def test_stages_and_recipes_all_have_parameters():
    assert {p for p in PAGES if p.parent.name != "guides"} <= set(WITH) and len(WITH) >= 20


@pytest.mark.parametrize("path", WITH, ids=name_of)
def test_parameters_have_types_and_help(path):
    inspected = papermill.inspect_notebook(str(path))
    index, cells = tagged(path)
    assigned = [
        node.target.id if isinstance(node, ast.AnnAssign) else node.targets[0].id
        for node in ast.parse(cells[index].source).body
        if isinstance(node, ast.AnnAssign | ast.Assign)
    ]
    assert list(inspected) == assigned, "papermill does not see every line of the cell"
    for name, told in inspected.items():
        assert told["inferred_type_name"] != "None", f"{name} has no type"
        assert len(told["help"]) >= 5, f"{name} has no comment behind it"
    for name, parameter in read_parameters(path).items():
        assert check_kind(name, parameter.default, type_named(parameter.kind)) == parameter.default


def first_cell(path, values, tmp_path, monkeypatch):
    """Run the parameters' cell, papermill's, and the next code cell; returns the error's text, or nothing."""
    index, cells = tagged(path)
    check = next(cell.source for cell in cells[index + 1 :] if cell.cell_type == "code")
    injected = "# Parameters\n" + "\n".join(f"{key} = {value!r}" for key, value in values.items())
    namespace = {"__name__": "page", "In": ["", cells[index].source, injected, check]}
    monkeypatch.chdir(tmp_path)
    for source in (cells[index].source, injected, check):
        try:
            exec(compile(source, str(path), "exec"), namespace)
        except ConfigError as error:
            assert source is check, "refused elsewhere than in the cell after the parameters"
            return str(error)
    return ""


@pytest.mark.parametrize("path", WITH, ids=name_of)
def test_the_first_cell_refuses_what_the_page_cannot_use(path, tmp_path, monkeypatch):
    known = read_parameters(path)
    name = max(known, key=len)
    assert first_cell(path, {}, tmp_path, monkeypatch) == "", "the page refuses its own defaults"
    mistyped = name[:-1] + "x" + name[-1]
    error = first_cell(path, {mistyped: 1}, tmp_path, monkeypatch)
    assert f"parameter '{mistyped}' is unknown" in error and f"did you mean '{name}'" in error and "\n" not in error
    for parameter in known.values():
        wrong = 7 if "str" in parameter.kind and "[" not in parameter.kind.removeprefix("Optional[") else "seven"
        error = first_cell(path, {parameter.name: wrong}, tmp_path, monkeypatch)
        assert f"parameter '{parameter.name}' is {wrong!r}" in error and "\n" not in error
    assert not any(tmp_path.iterdir()), "something was begun before the parameters were checked"


@pytest.mark.parametrize("path", [p for p in WITH if p.parent.name == "stages"], ids=name_of)
def test_a_stage_checks_settings_by_its_own_name(path, tmp_path, monkeypatch):
    _, cells = tagged(path)
    assert any(f'check_stage("{STAGES[path.name]}", globals())' in cell.source for cell in cells)
    assert "did you mean" in first_cell(path, {"preset": "demoo"}, tmp_path, monkeypatch)
    assert "'data.scael' is unknown" in first_cell(path, {"settings": {"data.scael": 1}}, tmp_path, monkeypatch)
    assert "data set 'camvid' needs its folder" in first_cell(
        path, {"settings": {"data.name": "camvid"}}, tmp_path, monkeypatch
    )


@pytest.mark.parametrize("path", [p for p in WITH if p.parent.name == "recipes"], ids=name_of)
def test_a_recipe_checks_words_and_settings(path, tmp_path, monkeypatch):
    network = "model" if "model" in read_parameters(path) else "student"
    assert "did you mean 'fastscnn'" in first_cell(path, {network: "fastscn"}, tmp_path, monkeypatch)
    assert "did you mean 'camvid'" in first_cell(path, {"dataset": "camvit"}, tmp_path, monkeypatch)
    assert "did you mean 'batch_size'" in first_cell(path, {"changes": {"batch_sise": 2}}, tmp_path, monkeypatch)
    assert "no such file or folder" in first_cell(path, {"root": "/none"}, tmp_path, monkeypatch)


def test_numbers_have_ranges():
    namespace = {"__annotations__": {"a": float}, "a": 0.5}
    check_parameters(namespace, ranges={"a": (0, 1)})
    for limits, words in (((0.6, 1), "0.6 to 1"), ((0.6, None), "at least 0.6"), ((None, 0.4), "at most 0.4")):
        with pytest.raises(ConfigError, match=words):
            check_parameters(namespace, ranges={"a": limits})


def test_a_stage_of_a_begun_run_is_checked_by_that_run(tmp_path):
    from rtseg.core.run_folder import RunFolder
    from rtseg.runs.config import load_preset

    RunFolder.create(tmp_path / "run", load_preset("icnet-demo").to_dict())
    check_stage("icnet", {"run": str(tmp_path / "run"), "preset": "demo", "settings": {"icnet.lr": 0.1}})
    with pytest.raises(ConfigError, match="stage 'search' is unknown"):
        check_stage("search", {"run": str(tmp_path / "run"), "preset": "demo", "settings": {}})


LISTS = [
    (path, p) for path in WITH for p in read_parameters(path).values() if p.kind.startswith(("list", "tuple", "dict"))
]


@pytest.mark.parametrize(
    ("path", "parameter"), LISTS, ids=lambda each: getattr(each, "name", getattr(each, "stem", ""))
)
def test_papermills_texts_become_lists(path, parameter, tmp_path, monkeypatch):
    """`papermill -p size "[64, 128]"` gives a text, `-y "size: [64, 128]"` a list: both are the list."""
    value = parameter.default or ({} if parameter.kind == "dict" else ["encoder"])
    if parameter.name != "protect":
        assert first_cell(path, {parameter.name: json.dumps(value)}, tmp_path, monkeypatch) == ""
    error = first_cell(path, {parameter.name: "seven"}, tmp_path, monkeypatch)
    assert f"parameter '{parameter.name}' is 'seven'" in error and f"-y '{parameter.name}: " in error


def test_what_a_shell_gives_is_read_by_the_parameters_type():
    def read(kind, value):
        space = {"a": value, "__annotations__": {"a": type_named(kind)}, "In": ["", f"# Parameters\na = {value!r}"]}
        check_parameters(space)
        return space["a"]

    assert read("list[int]", "[4, 8]") == [4, 8] == read("list[int]", [4, 8])
    assert read("tuple[int, int]", "[4, 8]") == (4, 8) == read("tuple[int, int]", [4, 8])
    assert read("dict", "{student.lr: 0.02}") == {"student.lr": 0.02}
    assert read("Optional[list[str]]", "[a]") == ["a"] and read("Optional[list[str]]", None) is None
    assert read("str", "[4, 8]") == "[4, 8]"  # a text stays one
    with pytest.raises(ConfigError, match=r"-y 'a: \[1, 2\]'"):
        read("list[int]", "[4, eight]")
    with pytest.raises(ConfigError, match="-r a 2024"):
        read("str", 2024)


def test_types_are_never_evaluated():
    for text in ("__import__('os').system('true')", "list[open]", "[].append", "int or str", "Optional"):
        with pytest.raises(ConfigError, match="cannot be used"):
            type_named(text)


def test_key_numbers_are_read_back_from_the_output():
    shown = parameters.key_numbers({"mIoU": 0.5, "steps": 3})._repr_mimebundle_()
    cell = nbformat.v4.new_code_cell(
        "x",
        outputs=[
            nbformat.v4.new_output("execute_result", data=shown),
            nbformat.v4.new_output("stream", text="mIoU 0.9"),
        ],
    )
    assert read_numbers(nbformat.v4.new_notebook(cells=[cell])) == {"mIoU": 0.5, "steps": 3}
