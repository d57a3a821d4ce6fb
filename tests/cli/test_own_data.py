"""Own data by commands alone: import, check, train, predict, drafts for a person, what to label next."""

import json

import numpy as np
import pytest
from PIL import Image

from rtseg.core.values import LabelSet


@pytest.fixture
def run(typed):
    """Type a line; its exit code, and all that it printed."""

    def typed_line(line: str) -> tuple[int, str]:
        code, out, err = typed(line)
        return code, out + err

    return typed_line


def annotate(root, count=6, size=(64, 96)):
    """A folder as labelme leaves it: a wall with a door in each image, and a point."""
    root.mkdir()
    for k in range(count + 2):
        noise = np.random.default_rng(k).integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / f"{k}.png")
        shapes = [
            {"label": "wall", "shape_type": "rectangle", "points": [[0, 0], [80, 60]]},
            {"label": "door", "shape_type": "polygon", "points": [[20, 20], [40, 20], [40, 60], [20, 60]]},
            {"label": "door", "shape_type": "point", "points": [[1, 1]]},
        ]
        document = {"shapes": shapes, "imagePath": f"{k}.png", "imageHeight": size[0], "imageWidth": size[1]}
        if k < count:
            (root / f"{k}.json").write_text(json.dumps(document))


def test_from_a_tools_folder_to_drafts_for_the_tool(tmp_path, run, one_thread):
    annotate(tmp_path / "left")
    code, said = run(f"data import labelme {tmp_path}/left --out {tmp_path}/yard --val 0.34 --background ignore")
    assert code == 0 and "images: 4 train, 2 val" in said and "skipped: 6 x shape without area" in said
    assert "skipped: 2 x image without annotation" in said and (tmp_path / "yard/pairs.png").is_file()
    assert LabelSet.from_yaml(tmp_path / "yard/labels.yaml").classes == ("door", "wall")
    code, said = run(f"data check folder --data {tmp_path}/yard --picture {tmp_path}/found.png")
    assert code == 0 and Image.open(tmp_path / "found.png").width == 1000
    code, said = run(f"data check labelme:background=ignore --data {tmp_path}/left")
    assert code == 0 and "skipped: 6 x shape without area" in said and "background" not in said
    small = "--set epochs=1 --set steps_per_epoch=1 --set batch_size=2 --set augmentation.crop=[64,64] --set device=cpu"
    code, said = run(f"train --model fastscnn --dataset folder --data {tmp_path}/yard --out {tmp_path}/run {small}")
    assert code == 0, said
    code, said = run(
        f"data suggest {tmp_path}/run {tmp_path}/left --data {tmp_path}/yard --count 2 --out {tmp_path}/next"
    )
    assert code == 0 and len((tmp_path / "next/suggested.txt").read_text().splitlines()) == 2, said
    code, said = run(f"predict {tmp_path}/run {tmp_path}/left/7.png --out {tmp_path}/drafts --kinds labelme,coco")
    assert code == 0, said
    drafts = json.loads((tmp_path / "drafts/labelme/7.json").read_text())
    assert {shape["label"] for shape in drafts["shapes"]} <= {"door", "wall"} and drafts["imageHeight"] == 64
    code, said = run(
        f"data import coco {tmp_path}/drafts/coco.json --out {tmp_path}/again --labels {tmp_path}/yard/labels.yaml"
    )
    assert code == 0 and "images: 1 train" in said, said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("data import labelmee {0}/left --out {0}/x", "did you mean 'labelme'"),
        ("data import coco {0}/left --out {0}/x", "holds no COCO file"),
        ("data import labelme {0}/nowhere --out {0}/x", "does not exist"),
        ("data import labelme {0}/left --out {0}/left", "not empty"),
        ("data check labelme:backgrund=ignore --data {0}/left", "did you mean 'background'"),
        ("data check labelme:background=no --data {0}/left", "background 'no' is unknown"),
    ],
)
def test_what_cannot_be_imported_is_one_line(tmp_path, run, line, words):
    annotate(tmp_path / "left", 2, (16, 16))
    code, said = run(line.format(tmp_path))
    assert code not in (0, None) and words in said and len(said.strip().splitlines()) == 1, said
