"""Every command that README, pages and messages print is one that the program understands: in today's words."""

import re
import shlex

import nbformat
import pytest
import typer

from rtseg.cli.main import COMMANDS, app, one_line, todays_words

WORD = re.compile(r"^(?:\$ |! ?)?(?:\.venv/bin/)?rtseg (?!--)([a-z]+)\b")
SKIPPED = ("...", "|", "NAME ", "`")


def lines_of(text):
    """The commands in a text, comments and continuations taken away."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        line = line.strip()
        if (found := WORD.match(line)) and found[1] in COMMANDS and not any(word in line for word in SKIPPED):
            yield re.split(r"\s+[#>]|\s+&&\s", line)[0].split("rtseg ", 1)[1]


def shown_lines(root):
    """File and command, for README and pages (code blocks), and for the examples in the helps."""
    for path in (root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "nbs").rglob("*.ipynb"))):
        if path.suffix == ".md":
            texts = [path.read_text()]
        else:
            texts = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
        for text in texts:
            for block in re.findall(r"```\w*\n(.*?)```", text, re.S):
                yield from ((path.relative_to(root).as_posix(), line) for line in lines_of(block))
    for path in sorted((root / "rtseg/cli").glob("*.py")):
        for example in re.findall(r"^\s+[A-Z][^\n:]*: (rtseg [^\n{]*)$", path.read_text(), re.M):
            yield from ((f"rtseg/cli/{path.name}", line) for line in lines_of(example))


def parse(line):
    """Let the real parser read a command, without calling it; its complaint, or nothing."""
    words, group, context = todays_words(shlex.split(line)), typer.main.get_command(app), None
    try:
        while True:
            name, command, words = group.resolve_command(context, words) if context else (None, group, words)
            context = command.make_context(name, list(words), parent=context, resilient_parsing=False)
            if not hasattr(command, "commands"):
                return ""
            words, group = [*context._protected_args, *context.args], command
    except typer.Exit:
        return ""
    except Exception as error:
        return one_line(error)


def test_every_line_that_is_shown_is_understood(root, capsys):
    shown = list(shown_lines(root))
    assert len(shown) > 40 and {path for path, _ in shown} >= {"README.md", "rtseg/cli/train.py"}
    wrong = [f"{path}: rtseg {line}: {said}" for path, line in shown if (said := parse(line))]
    assert not wrong, "\n".join(wrong)
    assert "note: " not in capsys.readouterr().err  # no old spelling is shown


def options_of(command):
    """The options of a command, or of all commands in a group."""
    found = {name for parameter in command.params for name in parameter.opts}
    return found.union(*(options_of(each) for each in getattr(command, "commands", {}).values()))


def test_options_in_messages_exist(root):
    """Error messages name commands inside sentences and f-strings: their options are those of the command."""
    group, wrong, seen = typer.main.get_command(app), [], 0
    for path in sorted((root / "rtseg").rglob("*.py")):
        for name, rest in re.findall(
            r"rtseg ([a-z]+)((?: (?:--[a-z-]+|\{[^{}]+\}|[\w./=\[\],~*]+))+)", path.read_text()
        ):
            if name in COMMANDS and (given := re.findall(r"--[a-z-]+", rest)):
                seen += len(given)
                unknown = set(given) - options_of(group.commands[name])
                wrong += [f"{path.relative_to(root)}: rtseg {name}{rest}: {unknown}"] if unknown else []
    assert seen > 30 and not wrong, "\n".join(wrong)


def test_the_parser_refuses_what_is_wrong():
    assert "--modle" in parse("train --modle fastscnn --data x --out y")
    assert "--epochs" in parse("train --epochs 3")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("bench --models fastscn --sizes 64x64 --runtimes torch", "--model"),
        ("export w.pt x.txt --auto --precisions fp32", "--precision"),
        ("evaluate --checkpoint none.pt --model fastscnn --data x", "--weights"),
    ],
)
def test_old_spellings_are_understood_and_noted(typed, old, new):
    code, _, err = typed(old)
    assert code == 1 and f"is called {new} now" in err and err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("command", ["predict --weights none.pt x --out y", "export --weights none.pt x.onnx"])
def test_weights_are_called_weights_everywhere(typed, command):
    code, _, err = typed(command)
    assert code == 1 and "none.pt" in err and err.count("\n") == 1
