"""The command line: one line on an error, exit codes, an example in every help, and the small commands."""

import json

import pytest

from rtseg.cli.options import read_settings, read_size
from rtseg.core.errors import ConfigError

COMMANDS = [
    "",
    "run",
    "stage",
    "lab",
    "models",
    "train",
    "tune",
    "bench",
    "sweep",
    "docs",
    "distill",
    "compress",
    "evaluate",
    "predict",
    "export",
    "view",
    "data",
    "data check",
    "data synthetic",
    "data prepare",
    "latency",
    "latency build",
    "latency show",
    "latency measure",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_shows_an_example(typed, command):
    code, out, err = typed(f"{command} --help")
    assert code == 0 and "Example: rtseg" in out and not err


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("run --preset dmeo", 1, ["preset 'dmeo' is unknown", "did you mean 'demo'"]),
        ("run --preset demo --stages data,serach", 1, ["stage 'serach' is unknown", "did you mean 'search'"]),
        ("run --preset demo --set studnet.lr=1", 1, ["'studnet'", "did you mean 'student'"]),
        ("run --preset demo --set student.lerning_rate=1", 1, ["'student.lerning_rate' is unknown"]),
        ("run --preset demo --set student.epochs=many", 1, ["'student.epochs'"]),
        ("run --preset demo --set student", 1, ["has no value"]),
        ("run --preset demo --seeds 0", 2, ["--seeds", "1"]),
        ("run --preset demo --seeds 2", 1, ["the plan 'street' has none", "--set seed=2"]),
        ("run --preset camvid", 1, ["data set 'camvid' needs its folder", "--data"]),
        ("run --preset camvid --data /does/not/exist", 1, ["data folder /does/not/exist does not exist"]),
        ("run --prset demo", 2, ["--prset", "--preset"]),
        ("rnu", 2, ["rnu", "run"]),
        ("stage serach", 1, ["did you mean 'search'"]),
        ("stage search -p search.budgt 0.3", 1, ["'search.budgt' is unknown", "did you mean 'budget'"]),
        ("stage search --epochs 3 x", 1, ["-p key value"]),
        ("models fasterseq", 1, ["did you mean 'fasterseg'"]),
        ("data check camvid --data /does/not/exist", 1, ["/does/not/exist"]),
        ("data check camvit --data /tmp", 1, ["did you mean 'camvid'"]),
        ("latency show /does/not/exist.json", 1, ["/does/not/exist.json does not exist"]),
        ("evaluate /does/not/exist.safetensors --model fasterseg --data /does/not/exist", 1, ["/does/not/exist"]),
        ("export /does/not/exist.safetensors x.onnx --model fasterseg", 1, ["/does/not/exist.safetensors"]),
        ("predict weights.pt images", 2, ["--out"]),
        ("predict weights.pt images --out x", 1, ["weights.pt does not exist"]),
        ("run --preset icnet-demo --stages serach", 1, ["stage 'serach' is unknown"]),
        ("run --preset icnet-demo --set student.lr=1", 1, ["'student.lr' is unknown", "'student' is no group"]),
        ("run --preset icnet", 1, ["data set 'cityscapes' needs its folder", "--data"]),
        (
            "train --model fastscnn --data /none --out x --recipe icnte",
            1,
            ["recipe 'icnte' is unknown", "did you mean 'icnet'"],
        ),
        ("train --model fastscnn --data /none --out x --recipe icnet --config y.yaml", 1, ["give one of them"]),
        (
            "compress --model fastscnn --weights w --data /none --out x --ratio 0.5 --latency-ms 3",
            1,
            ["give one of them"],
        ),
        ("bench --model fastscn", 1, ["model 'fastscn' is unknown", "did you mean 'fastscnn'"]),
        (
            "bench --model fastscnn --runtime onxruntime",
            1,
            ["runtime 'onxruntime' is unknown", "did you mean 'onnxruntime'"],
        ),
        ("bench --model fastscnn --precision fp31", 1, ["precision 'fp31' is unknown"]),
        ("bench --model fastscnn --size 512", 1, ["512x1024"]),
        ("bench --model fastscnn --against none.json", 1, ["none.json does not exist"]),
        ("distill --model fastscnn --teacher ddrnet --data /none --out x", 2, ["--teacher-weights"]),
    ],
)
def test_errors_are_one_line_with_a_code(typed, tmp_path, monkeypatch, line, code, words):
    monkeypatch.chdir(tmp_path)
    given, out, err = typed(line)
    assert given == code and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    for word in words:
        assert word in err
    assert not any(tmp_path.iterdir()), "nothing is begun by a mistyped line"


def test_a_disk_that_refuses_is_one_line(typed, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    code, out, err = typed(f"data synthetic {tmp_path}/file/scenes")
    assert code == 1 and out == "" and err.count("\n") == 1
    assert (
        err
        == f"error: {tmp_path}/file/scenes cannot be used (Not a directory): make room or choose another folder, the same command goes on\n"
    )


def test_scenes_are_drawn_and_checked(typed, tmp_path):
    assert typed(f"data synthetic {tmp_path}/scenes --train 3 --val 2 --test 2 --size 64x128")[0] == 0
    code, out, _ = typed(
        f"data check synthetic --data {tmp_path}/scenes --splits train,val,test --out {tmp_path}/report.json"
    )
    assert code == 0 and "road" in out and json.loads((tmp_path / "report.json").read_text())["errors"] == []
    image = next((tmp_path / "scenes/leftImg8bit/train").rglob("*.png"))
    twin = next((tmp_path / "scenes/leftImg8bit/val").rglob("*.png"))
    twin.write_bytes(image.read_bytes())
    code, _, err = typed(f"data check synthetic --data {tmp_path}/scenes --splits train,val")
    assert code == 1 and "same picture" in err and err.count("\n") == 1


def test_a_published_network_is_exported(typed, tmp_path):
    from rtseg.core.architecture import Architecture, Branch
    from rtseg.core.files import save_tensors
    from rtseg.models.fasterseg import FasterSeg

    arch = Architecture((Branch((1, 1), (0, 0), (4,)),), base_width=4, stem_width=4, head_width=4)
    arch.save(tmp_path / "arch.json")
    save_tensors(tmp_path / "w.safetensors", FasterSeg(arch, 5).state_dict())
    code, out, _ = typed(
        f"export {tmp_path}/w.safetensors {tmp_path}/x.onnx --model {tmp_path}/arch.json --classes 5 --size 64x64"
    )
    assert code == 0 and (tmp_path / "x.onnx").is_file() and "nodes" in out
    code, _, err = typed(
        f"export {tmp_path}/w.safetensors {tmp_path}/y.onnx --model {tmp_path}/arch.json --classes 6 --size 64x64"
    )
    assert code == 1 and "do not fit" in err and not (tmp_path / "y.onnx").exists()


def test_words_are_read_strictly():
    assert read_settings(["a.b=c=d"]) == {"a.b": "c=d"} and read_size("64X128") == (64, 128)
    for wrong in ("64", "64x", "axb", "0x64"):
        with pytest.raises(ConfigError, match="512x1024"):
            read_size(wrong)
    with pytest.raises(ConfigError, match="has no value"):
        read_settings(["=1"])
