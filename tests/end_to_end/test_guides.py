"""The guides: each runs from top to bottom, leaves what it says, and names only commands that exist."""

import ast
import json
import re
import shlex
from pathlib import Path

import nbformat
import papermill
import pytest
import torch
from typer.exceptions import TyperException
from typer.main import get_command

from rtseg.compression import PrunedRecord
from rtseg.core.architecture import Architecture
from rtseg.core.config import load_config
from rtseg.core.values import LabelSet
from rtseg.data.scenes import make_scenes
from rtseg.evaluation import load_trained
from rtseg.models import count_parameters, create_model
from rtseg.cli.main import app, main
from rtseg.runs.config import load_preset
from rtseg.runs.kernels import kernel_managers
from rtseg.cli.options import read_settings
from rtseg.runs.training_runs import training_settings
from rtseg.search import LatencyTable
from rtseg.search.trained import load_table
from rtseg.training import TrainConfig, read_metrics
from rtseg.tuning import TuneResult

GUIDES = Path(__file__).resolve().parents[2] / "nbs" / "guides"
PAGES = sorted(GUIDES.glob("*.ipynb"))
FENCE = re.compile(r"```sh\n(.*?)```", re.DOTALL)
SPAN = re.compile(r"(?<!`)`(rtseg [^`\n]+)`(?!`)")


def cells(page: Path, kind: str) -> list:
    return [cell for cell in nbformat.read(page, as_version=4).cells if cell.cell_type == kind]


def typed_lines(page: Path) -> list[list[str]]:
    """The words after `rtseg` of every command in a shell block, also of those that torchrun or accelerate starts."""
    found = []
    for cell in cells(page, "markdown"):
        for block in FENCE.findall(cell.source):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if "rtseg" in words:
                    found.append(words[words.index("rtseg") + 1 :])
    return found


def parse(words: list[str]):
    """The command that the words name, and its options as click understands them; a usage error for anything it does not know."""
    command, depth = get_command(app), 0
    while hasattr(command, "commands"):
        assert depth < len(words) and words[depth] in command.commands, f"rtseg {' '.join(words)}: no such command"
        command, depth = command.commands[words[depth]], depth + 1
    return command.make_context(words[depth - 1], words[depth:]), words[:depth]


def check_settings(names: list[str], options: dict) -> None:
    """`--set` names settings that exist, with values that they can have."""
    given = read_settings(options.get("set_") or [])
    if names[0] == "run" or names[:2] == ["latency", "build"]:
        load_preset(options.get("preset") or "demo").with_values(given)
    elif names[0] in ("train", "distill", "compress", "tune"):
        training_settings(recipe=options.get("recipe"), changes=given)
    for name in {options.get("model"), options.get("teacher")} - {None}:
        if not str(name).endswith(".json") and name != "twopaths":
            create_model(
                name,
                5,
                **{
                    k: v == "true" if v in ("true", "false") else v
                    for k, v in read_settings(options.get("option") or []).items()
                    if k != "hidden"
                },
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_guide_is_understood(page):
    for words in typed_lines(page):
        context, names = parse(words)
        check_settings(names, context.params)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_in_the_text_exists(page):
    root = get_command(app)
    for cell in cells(page, "markdown"):
        for span in SPAN.findall(cell.source):
            words = span.split()
            if words[1].startswith("-"):
                continue
            assert words[1] in root.commands, span
            command, depth = root, 1
            while depth < len(words) and words[depth] in getattr(command, "commands", {}):
                command, depth = command.commands[words[depth]], depth + 1
            known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-p"}
            assert all(word in known for word in words[depth:] if word.startswith("-") and word[1:2] != "1"), span


def test_the_check_sees_a_wrong_command():
    for line in ("trian --model enet", "train --model enet --dta x --out y", "train --model enet --data x"):
        with pytest.raises((TyperException, AssertionError)):
            parse(line.split())
    context, names = parse("train --model enet --data x --out y --set epcohs=3".split())
    with pytest.raises(Exception, match="epochs"):
        check_settings(names, context.params)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name[:2] not in ("03", "10", "11", "12")], ids=lambda page: page.stem
)
def test_a_guide_has_a_title_a_summary_and_parameters_that_explain_themselves(page):
    first = cells(page, "markdown")[0].source
    assert re.match(r"# [^\n]+\n> [^\n]+\n", first)
    tagged = [cell for cell in cells(page, "code") if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for line in tagged[0].source.splitlines():
        assert re.fullmatch(r"\w+: \w[\w\[\], ]* = .+?  # .+", line), line
    for node in ast.parse(tagged[0].source).body:
        value = ast.literal_eval(node.value)
        assert isinstance(node, ast.AnnAssign) and type(value).__name__ == ast.unparse(node.annotation).split("[")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page):
    for cell in cells(page, "markdown"):
        for target in re.findall(r"\]\(([^)#]+\.ipynb)", cell.source):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Run a guide with parameters; its folder of results, and its outputs as text."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RTSEG_STILL", "1")
    torch.set_num_threads(1)

    def execute_page(number, **given):
        (page,) = (p for p in PAGES if p.name.startswith(number))
        out = tmp_path / "out"
        if given or "out: str" in "".join(c.source for c in cells(page, "code")):
            given = {"out": str(out), **given}
        papermill.execute_notebook(
            page,
            tmp_path / page.name,
            parameters=given,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            cwd=str(tmp_path),
            **kernel_managers(),
        )
        done = nbformat.read(tmp_path / page.name, as_version=4)
        outputs = [o for cell in done.cells for o in cell.get("outputs", [])]
        assert not any(o.output_type == "error" for o in outputs)
        return out, "".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in outputs)

    return execute_page


@pytest.mark.slow
def test_first_run(execute):
    out, said = execute("01", stages="data,latency")
    manifest = json.loads((out / "run/manifest.json").read_text())
    assert set(manifest) == {"data", "latency"} and (out / "run/report.html").stat().st_size > 100_000
    assert len(LatencyTable.load(out / "run/latency/table.json").entries) > 50 and "[1/2] data      up to date" in said


@pytest.mark.slow
def test_your_data(execute):
    """From a folder as labelme left it to a file that runs without this project; no code that converts masks."""
    out, said = execute("02", epochs=1, steps_per_epoch=2)
    assert LabelSet.from_yaml(out / "streets/labels.yaml").classes == (
        "building",
        "ground",
        "person",
        "plants",
        "sky",
        "vehicle",
    )
    assert len(list((out / "streets/masks/train").glob("*.png"))) == 32
    assert read_metrics(out / "training")[-1]["step"] == 2 and (out / "streets.onnx").stat().st_size > 100_000
    assert "skipped: 40 x shape without area" in said and "0003.json cannot be read" in said
    assert "label values [77] are not in label set" in said and "a draft of" in said


@pytest.mark.slow
def test_does_the_search_beat_chance(execute):
    """From the records that ship: windows that are judged, what does not beat chance, and what is missing."""
    _, said = execute("13")
    trained = load_table("camvid-street")
    assert (
        f"{sum(map(len, trained.of().values()))} trainings by {trained.recipes()[0]})" in said
        and "beat it in no window at any bill: " in said
    )
    assert re.search(r"\d+\.\d to \d+\.\d ms: \d+ networks", said) and "not judged: " in said
    assert "are missing, nothing is said yet" in said or "Kendall's tau" in said


@pytest.mark.slow
def test_search_for_your_device(execute):
    out, _ = execute("04", search_epochs=1, train_steps=1, height=64, width=64)
    times = LatencyTable.load(out / "table.json")
    assert times.header.size == (64, 64) and times.predict(Architecture.load(out / "student.json")) > 0
    assert [read_metrics(out / name)[-1]["step"] for name in ("found", "by_lot")] == [1, 1]


@pytest.mark.slow
def test_distil(execute):
    out, _ = execute("05", seeds=1, epochs=1, steps_per_epoch=1)
    lines = {name: read_metrics(out / name)[-1] for name in ("alone-0", "kl-0", "cwd-0")}
    assert set(lines["alone-0"]["losses"]) == {"main"} and all(
        lines[name]["losses"]["distillation"] > 0 for name in ("kl-0", "cwd-0")
    )


@pytest.mark.slow
def test_compress_icnet(execute):
    out, said = execute("06", epochs=1, steps_per_epoch=1)
    small, whole = PrunedRecord.load(out / "compressed.json").build(), create_model("icnet", 19, encoder="resnet18")
    assert 0.2 < count_parameters(small) / count_parameters(whole) < 0.35
    assert "shallow, fusion16, fusion8, head, aux_heads" in said


@pytest.mark.slow
def test_tune(execute):
    out, said = execute("07", trials=3, first=2, epochs=1, steps_per_epoch=1)
    result = TuneResult.load(out / "search")
    assert len(result.trials) == 3 and load_config(TrainConfig, out / "search/best.yaml").lr == result.best.values["lr"]
    assert "importance needs at least 8" in said


@pytest.mark.slow
def test_many_gpus(execute):
    out, _ = execute("08", epochs=1, steps_per_epoch=1)
    one, many = (read_metrics(out / name)[-1] for name in ("one", "many"))
    assert one["step"] == many["step"] == 1 and abs(one["losses"]["main"] - many["losses"]["main"]) < 1e-3


def test_the_same_line_gives_the_same_network(tmp_path, one_thread):
    make_scenes(tmp_path / "streets", counts={"train": 4, "val": 1, "test": 1}, size=(64, 64))
    line = f"train --model fastscnn --dataset synthetic --data {tmp_path}/streets --set epochs=1 --set steps_per_epoch=1 --set batch_size=2 --set augmentation.crop=[64,64] --set device=cpu"
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        with pytest.raises(SystemExit) as end:
            main([*line.split(), "--set", f"seed={seed}", "--out", str(tmp_path / name)])
        assert end.value.code == 0
    a, b, c = (load_trained(tmp_path / name, "last").weights for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a) and any(not torch.equal(a[key], c[key]) for key in a)


@pytest.mark.slow
def test_add_a_network(execute):
    out, said = execute("09", epochs=1, steps_per_epoch=1)
    assert (out / "twopaths.onnx").stat().st_size > 100_000 and read_metrics(out / "twopaths")[-1]["step"] == 1
    assert (
        "every parameter gets a gradient, but second_head.weight" in said
        and "do not depend on the other images of the batch" in said
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", sorted(p.name[:2] for p in PAGES if p.name[:2] in ("03", "10", "11", "12")))
def test_the_other_guides_run(execute, number):
    _, said = execute(number)
    assert len(said) > 200
