"""The networks of 2021 to 2024 through int8 and the features of latency prediction: the smallest of each family, at a small size.

    OMP_NUM_THREADS=1 python benchmarks/families_shipping.py [--models pidnet_s,letnet]

Both quantisers of autotuning, at 64 x 128 with settled random weights and four photographs of noise; a form that agrees on fewer than 97 % of the pixels is refused, as autotuning refuses it. Recorded are
agreement, layers left in float and the reason, and of latency prediction what the graph is made of (GMAC by kind of convolution, megabytes moved). No times: whether int8 pays is for autotuning on the machine in question.
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
from rtseg.models import create_model, model_info
from rtseg.models.checking import smallest_of_families
from rtseg.runtimes.export import to_onnx
from rtseg.search.layerwise import FEATURES, layer_features
from rtseg.shipping.checking import settled
from rtseg.shipping.quantization import QUANTISERS, quantize

PATH = Path(__file__).parent / "results" / "families_shipping.json"
SHAPE, IMAGES, AGREEMENT = (1, 3, 64, 128), 4, 0.97


def photographs() -> list[np.ndarray]:
    """Smooth noise as photographs H x W x 3, uint8."""
    rng = np.random.default_rng(0)
    small = torch.from_numpy(rng.integers(0, 256, (IMAGES, 3, 5, 9)).astype(np.float32))
    return list(F.interpolate(small, size=SHAPE[2:], mode="bilinear").permute(0, 2, 3, 1).to(torch.uint8).numpy())


def int8(network: torch.nn.Module, method: str) -> dict:
    """What became of a network under one quantiser."""
    try:
        made = quantize(
            network, photographs(), shape=SHAPE, method=method, min_agreement=AGREEMENT, max_float=0.5, threads=1
        ).record
    except RtsegError as error:
        return {"refused": str(error)}
    return {
        "agreement": made.score["agreement"],
        "layers": made.layers,
        "float_layers": len(made.float_layers),
        "refused": made.refused,
    }


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--models", help="names, separated by commas; without it the smallest of each family since 2021")
    given = words.parse_args()
    names = [name for name in smallest_of_families() if "family" in model_info(name) or name in ("letnet", "lmffnet")]
    record = read_json(PATH) if PATH.exists() else {"networks": {}}
    record |= {"shape": list(SHAPE), "min_agreement": AGREEMENT, "environment": environment_record()}
    for name in given.models.split(",") if given.models else names:
        row = record["networks"].setdefault(name, {"int8": {}})
        seed_everything(0)
        network = settled(create_model(name, 11), (2, 3, 128, 192)).eval()
        if "features" not in row:
            found = layer_features(to_onnx(network, SHAPE, dynamic_batch=False))
            row["features"] = dict(zip(FEATURES, (round(float(value), 6) for value in found), strict=True))
        for method in QUANTISERS:
            if method not in row["int8"]:
                row["int8"][method] = int8(network, method)
                write_json(PATH, record)
        print(name, row, flush=True)


if __name__ == "__main__":
    main()
