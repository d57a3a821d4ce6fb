"""What a command imports: nothing heavy for `--help`, `models` and `lab`; the rest when it is called."""

import json
import subprocess
import sys

import pytest
import typer

from rtseg.cli import lab

from rtseg.cli.main import COMMANDS, app
from rtseg.core.errors import ConfigError
from rtseg.models import list_models, model_info
from rtseg.models.facts import facts_in, known_facts

HEAVY = ("torch", "plotly.graph_objects", "papermill", "onnxruntime", "torchvision")
ASKED = """
import json, sys
from rtseg.cli.main import main
try:
    main({words!r})
except SystemExit as end:
    print(json.dumps([end.code, sorted(m for m in {heavy!r} if m in sys.modules)]), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "models",
        "models fasterseg",
        "models --sort miou --max-gmacs 10",
        "lab --help",
        "rnu",
        "models fasterseq",
    ],
)
def test_nothing_heavy_is_imported(line):
    script = ASKED.format(words=line.split(), heavy=HEAVY[:1] if line.startswith("models") else HEAVY)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    code, imported = json.loads(done.stderr.splitlines()[-1])
    assert imported == [] and code == {"rnu": 2, "models fasterseq": 1}.get(line, 0)


def test_lab_starts_jupyterlab_and_ends_with_its_code(monkeypatch):
    started = []
    monkeypatch.setattr(
        lab.subprocess,
        "run",
        lambda words, **more: started.append((words, more)) or subprocess.CompletedProcess(words, 3),
    )
    with pytest.raises(typer.Exit) as end:
        lab.lab(None, 8889, False)
    ((words, more),) = started
    assert (
        end.value.exit_code == 3
        and words[1:3] == ["-m", "jupyterlab"]
        and "--ServerApp.port=8889" in words
        and more["env"]["JUPYTER_PREFER_ENV_PATH"] == "1"
    )


@pytest.mark.parametrize(
    "face",
    ["core", "data", "models", "search", "training", "runs", "viz", "explore", "shipping", "pipeline", "deployment"],
)
def test_a_face_imports_nothing_until_it_is_asked(face):
    script = f"import sys, rtseg.{face} as face; print('torch' in sys.modules, face.__all__ == sorted(face.__all__))"
    assert subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    ).stdout.split() == ["False", "True"]


def test_a_face_gives_its_own_name_even_where_a_module_is_called_the_same():
    script = "import rtseg.search.cosearch, rtseg.search.inherit; from rtseg.search import cosearch, inherit; print(callable(cosearch), callable(inherit))"
    assert subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    ).stdout.split() == ["True", "True"]


def test_the_list_of_commands_says_what_the_commands_say():
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        assert command.name == name and " ".join(command.help.split("\n\n")[0].split()) == COMMANDS[name].help


def test_facts_read_from_sources_are_the_registered_ones():
    assert list(known_facts()) == list_models()
    for name, facts in known_facts().items():
        assert {"name": name, **facts} == model_info(name)
        assert facts["params"] > 0 and facts["gmacs"] > 0 and facts["gmacs_size"] == (512, 1024), (
            f"{name}: the table has no figures"
        )


def test_facts_must_be_literals():
    with pytest.raises(ConfigError, match="a.py registers a network with facts that have to be computed"):
        facts_in('@register_model("a", title=f"{x}", paper="", year=2020)\ndef a(): ...', "a.py")
    with pytest.raises(ConfigError, match="write them as literals"):
        facts_in('@register_model("a", **ABSENT)\ndef a(): ...')
