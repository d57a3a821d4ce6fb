"""Which settings of a short training from scratch pay on CamVid: a search by successive halving, judged on the validation split.

    python benchmarks/recipe_study.py --data ../shared/camvid --out runs/recipe-study --trials 40
    python benchmarks/recipe_study.py --data ../shared/camvid --out runs/recipe-study --trials 60      # goes on; so it does after a kill
    python benchmarks/recipe_study.py --data ../shared/camvid --out runs/recipe-unseen --hold-out 0006R0

CamVid's validation split is the end of a drive whose beginning is trained on. `--hold-out` takes another drive out of the training images and judges on both together, the one that was seen and the one that was not.

Fast-SCNN at half size (180 x 240), the recipe camvid-short and 14 passes as a base, the space `street-scenes`. A trial costs about two core-minutes on an AVX-512 processor where it is not ended early; one thread
a process, and several processes may share the folder. The same study is `rtseg tune fastscnn --space street-scenes --recipe camvid-short`, but for the size. The study's result.json lies in --out; its best settings are
best on one drive of 101 frames: confirm them with other seeds before believing them.
"""

import argparse
from pathlib import Path

import torch

from rtseg.data import SegDataset, open_dataset
from rtseg.evaluation.sequences import sequence_of
from rtseg.training.recipes import load_recipe
from rtseg.tuning.tuner import tune


def splits(data: str, held_out: str | None) -> tuple[SegDataset, SegDataset]:
    """What is trained on and what is judged on, at half size; a drive that is held out goes from the one to the other."""
    train, val = (open_dataset("camvid", data, split=split, scale=0.5, cache="memory") for split in ("train", "val"))
    if held_out is None:
        return train, val
    drives = [sequence_of(Path(sample.image).stem) for sample in train.samples]
    if held_out not in drives:
        raise SystemExit(
            f"error: no training image is of the drive {held_out}: give one of {', '.join(sorted(set(drives)))}"
        )
    unseen = [sample for sample, drive in zip(train.samples, drives, strict=True) if drive == held_out]
    judged = SegDataset("camvid", [*val.samples, *unseen], split="val", labels=val.labels, scale=0.5, cache="memory")
    return train.subset(i for i, drive in enumerate(drives) if drive != held_out), judged


def main() -> None:
    """Begin the study or go on, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CamVid's folder")
    parser.add_argument("--out", type=Path, default=Path("runs/recipe-study"), help="the study's folder")
    parser.add_argument("--trials", type=int, default=40, help="in all, those of earlier calls included")
    parser.add_argument("--model", default="fastscnn", help="a name of the registry")
    parser.add_argument("--hold-out", help="a drive of the training images to judge on, too, such as 0006R0")
    words = parser.parse_args()
    torch.set_num_threads(1)
    train, val = splits(words.data, words.hold_out)
    result = tune(
        words.model,
        train,
        val,
        space="street-scenes",
        config=load_recipe("camvid-short"),
        folder=words.out,
        trials=words.trials,
        pruner="halving",
        resume=words.out.is_dir() and any(words.out.iterdir()),
        progress=False,
    )
    for trial in sorted(result.complete, key=lambda trial: -trial.scores["miou"])[:10]:
        print(f"{trial.scores['miou']:.4f}  {trial.values}")


if __name__ == "__main__":
    main()
