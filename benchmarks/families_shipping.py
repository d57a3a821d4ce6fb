"""The networks of 2021 to 2024 through int8 and the features of latency prediction: the smallest of each family, at a small size.

    OMP_NUM_THREADS=1 python benchmarks/families_shipping.py [--models pidnet_s,letnet] [--data ../shared/camvid --runs runs/camvid-short]

Both quantisers of autotuning. Networks that benchmarks/camvid_training.py has trained (--runs) are calibrated and judged on eight validation images of CamVid, at 192 x 256 and autotuning's own 99 %;
the others have settled random weights and photographs of noise, at 64 x 128 and 97 %: nothing separates the classes there, so it says little but that the way through works. Recorded are
agreement, layers left in float and the reason why a form is refused, and of latency prediction what the graph is made of (GMAC by kind of convolution, megabytes moved). No times: whether int8 pays is for autotuning on the machine in question.
Killed, it goes on where it stopped. Writes results/families_shipping.json.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from rtseg.core.environment import environment_record, seed_everything
from rtseg.core.errors import RtsegError
from rtseg.core.files import read_json, write_json
from rtseg.data.datasets import SegDataset, open_dataset
from rtseg.evaluation.evaluator import load_trained
from rtseg.models import create_model, model_info
from rtseg.models.checking import smallest_of_families
from rtseg.runtimes.export import to_onnx
from rtseg.search.layerwise import FEATURES, layer_features
from rtseg.shipping.checking import settled
from rtseg.shipping.quantization import QUANTISERS, quantize

PATH = Path(__file__).parent / "results" / "families_shipping.json"
SHAPE, IMAGES, AGREEMENT = (1, 3, 64, 128), 4, 0.97
TRAINED_SHAPE, TRAINED_IMAGES, TRAINED_AGREEMENT = (1, 3, 192, 256), 8, 0.99


def photographs() -> list[np.ndarray]:
    """Smooth noise as photographs H x W x 3, uint8."""
    rng = np.random.default_rng(0)
    small = torch.from_numpy(rng.integers(0, 256, (IMAGES, 3, 5, 9)).astype(np.float32))
    return list(F.interpolate(small, size=SHAPE[2:], mode="bilinear").permute(0, 2, 3, 1).to(torch.uint8).numpy())


def trained(name: str, runs: Path | None) -> torch.nn.Module | None:
    """The network with the weights that the short recipe left, or None where it was not trained."""
    path = runs / f"{name}-seed0" / "best.safetensors" if runs else None
    if path is None or not path.is_file():
        return None
    network = create_model(name, 11).eval()
    network.load_weights(load_trained(path).weights)
    return network


def int8(network: torch.nn.Module, method: str, calibration: SegDataset | list, **limits) -> dict:
    """What became of a network under one quantiser."""
    try:
        made = quantize(network, calibration, method=method, max_float=0.5, threads=1, **limits).record
    except RtsegError as error:
        return {"refused": str(error)}
    return {
        "agreement": made.score["agreement"],
        "layers": made.layers,
        "float_layers": len(made.float_layers),
        "refused": made.refused,
    }


def row_of(name: str, network: torch.nn.Module | None, data: SegDataset | None) -> dict:
    """Both quantisers and the features of one network: trained and judged on `data`, or settled and judged on noise."""
    if network is not None:
        images, limits = data, dict(shape=TRAINED_SHAPE, images=TRAINED_IMAGES, min_agreement=TRAINED_AGREEMENT)
    else:
        seed_everything(0)
        network, images = settled(create_model(name, 11), (2, 3, 128, 192)).eval(), photographs()
        limits = dict(shape=SHAPE, min_agreement=AGREEMENT)
    found = layer_features(to_onnx(network, SHAPE, dynamic_batch=False))
    return {
        "trained": images is data,
        "int8": {method: int8(network, method, images, **limits) for method in QUANTISERS},
        "features": dict(zip(FEATURES, (round(float(value), 6) for value in found), strict=True)),
    }


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--models", help="names, separated by commas; without it the smallest of each family since 2021")
    words.add_argument("--data", type=Path, help="folder of CamVid, for trained networks")
    words.add_argument("--runs", type=Path, help="folder of the trainings by the short recipe")
    given = words.parse_args()
    names = [name for name in smallest_of_families() if "family" in model_info(name) or name in ("letnet", "lmffnet")]
    data = open_dataset("camvid", given.data, "val", scale=0.5) if given.data else None
    record = read_json(PATH) if PATH.exists() else {"networks": {}}
    record |= {"environment": environment_record()}
    for name in given.models.split(",") if given.models else names:
        network = trained(name, given.runs if data is not None else None)
        known = record["networks"].get(name)
        if known is None or (network is not None and not known["trained"]):
            record["networks"][name] = row_of(name, network, data)
            write_json(PATH, record)
        print(name, record["networks"][name], flush=True)


if __name__ == "__main__":
    main()
