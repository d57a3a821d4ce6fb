"""Every network of the registry at large and odd sizes: ONNX Runtime against PyTorch, and torch.compile's kernels against eager.

    python benchmarks/zoo_sizes.py                      # all networks, four sizes; killed, it goes on where it stopped
    python benchmarks/zoo_sizes.py --compile            # also compiles each network for this CPU (up to a minute each)
    python benchmarks/zoo_sizes.py --models fastscnn,stdc

Writes results/zoo_sizes.json: the greatest difference of the logits, relative to the largest one, and where that is not below 1e-3 the share of pixels with the same class.
The test-suite does the same at 65 x 97 on every run, and checks that this record holds every network.
"""

import argparse
from pathlib import Path

import torch

from rtseg.core.environment import environment_record
from rtseg.core.errors import RtsegError
from rtseg.core.files import read_json, write_json
from rtseg.runtimes.export import compare_onnx, to_onnx
from rtseg.models import SegNetwork, create_model, list_models

PATH = Path(__file__).parent / "results" / "zoo_sizes.json"
SIZES = ((65, 97), (360, 480), (375, 1242), (721, 1281))


def network(name: str) -> SegNetwork:
    torch.manual_seed(0)
    return create_model(name, 19).eval()


def relative(difference: float, net: SegNetwork, shape: tuple[int, ...]) -> float:
    with torch.inference_mode():
        return difference / float(net(torch.randn(shape, generator=torch.Generator().manual_seed(0))).abs().max())


def onnx_difference(name: str, size: tuple[int, int]) -> float:
    net, shape = network(name), (1, 3, *size)
    return relative(compare_onnx(to_onnx(net, shape), net, shape)[0], net, shape)


def onnx_agreement(name: str, size: tuple[int, int]) -> float:
    net, shape = network(name), (1, 3, *size)
    return compare_onnx(to_onnx(net, shape), net, shape)[1]


def compiled_difference(name: str, size: tuple[int, int]) -> float:
    net, shape = network(name), (1, 3, *size)
    torch._dynamo.reset()
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return relative(float((torch.compile(net)(image) - net(image)).abs().max()), net, shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help="names, separated by commas; all without it")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    record = read_json(PATH) if PATH.exists() else {"networks": {}}
    record["environment"] = environment_record()
    jobs = [("onnx", f"{h}x{w}", onnx_difference, (h, w)) for h, w in SIZES]
    jobs += [("compiled", "65x97", compiled_difference, (65, 97))] if args.compile else []
    for name in args.models.split(",") if args.models else list_models():
        row = record["networks"].setdefault(name, {})
        for kind, label, measure, size in jobs:
            if label not in row.setdefault(kind, {}):
                row[kind][label] = float(f"{measure(name, size):.3g}")
                write_json(PATH, record)
        for label in (f"{h}x{w}" for h, w in SIZES if row["onnx"][f"{h}x{w}"] >= 1e-3):
            if label not in row.setdefault("onnx_agreement", {}):
                row["onnx_agreement"][label] = round(
                    onnx_agreement(name, tuple(int(side) for side in label.split("x"))), 6
                )
                write_json(PATH, record)
        print(name, row, flush=True)


if __name__ == "__main__":
    try:
        main()
    except RtsegError as error:
        raise SystemExit(str(error)) from None
