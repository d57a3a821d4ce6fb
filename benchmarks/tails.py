"""What the graph's tail costs, and what its short cuts cost in mIoU: logits enlarged by Resize or by two products, the best class taken after it, at half the size, or before.

    python benchmarks/tails.py --data ../shared/camvid --runs ../runs/camvid_training

Milliseconds: 19 classes from 64 x 128 to 512 x 1024 labels, in every runtime of this machine, all forms in turns; the logits come from a pooling and a 1 x 1 convolution, which is timed alone, too.
mIoU: networks trained on CamVid, its test images, the same logits for every form. Writes results/tails.json. Run it on a quiet machine.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from autotune import CLASSES, networks
from torch import Tensor, nn

from rtseg.core.environment import environment_record
from rtseg.core.files import write_json
from rtseg.data import open_dataset
from rtseg.data.loading import normalize
from rtseg.deployment import why_absent
from rtseg.shipping.autotuning import time_in_turns
from rtseg.runtimes.export import to_onnx
from rtseg.shipping.faithful import agreement, miou
from rtseg.latency.machine_state import machine_record
from rtseg.runtimes.openvino import capabilities
from rtseg.runtimes.runtimes import load_runtime
from rtseg.runtimes.serving import ServingGraph
from rtseg.models.contract import SegNetwork

RESULT = Path(__file__).parent / "results" / "tails.json"
FORMS = {
    "Resize, argmax after": ("resize", "after"),
    "products, argmax after": ("products", "after"),
    "products, argmax at half": ("products", "half"),
    "argmax before": ("products", "before"),
}
SIZE, STRIDE, OF_TAILS = (512, 1024), 8, 19


class Coarse(SegNetwork):
    """Logits at 1/8 at almost no cost."""

    def __init__(self):
        super().__init__(OF_TAILS)
        self.mix = nn.Conv2d(3, OF_TAILS, 1)

    def predict(self, x: Tensor) -> Tensor:
        return self.mix(F.avg_pool2d(x, STRIDE))


class Small(nn.Module):
    """The logits without any tail."""

    def __init__(self, network: SegNetwork):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.predict(x)


def pairs() -> list[tuple[str, str]]:
    """Runtimes and precisions of this machine."""
    found = [("onnxruntime", "fp32")]
    if why_absent("openvino") is None:
        found += [("openvino", precision) for precision in ("fp32", *(["bf16"] if "BF16" in capabilities() else []))]
    return found


def times(threads: int, rounds: int) -> list[dict]:
    """Median milliseconds of each form in each runtime, and how many labels are those of the plain form in fp32."""
    torch.manual_seed(0)
    network, image = Coarse().eval(), torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1)).numpy()
    graphs = {"logits alone": to_onnx(Small(network), image.shape, dynamic_batch=False)}
    for form, (upsampling, argmax) in FORMS.items():
        graphs[form] = to_onnx(
            ServingGraph(network, image="float", upsampling=upsampling, argmax=argmax),
            image.shape,
            dynamic_batch=False,
            outputs=("labels",),
        )
    rows, wanted = [], None
    for runtime, precision in pairs():
        loaded = {
            form: load_runtime(graph, runtime=runtime, precision=precision, threads=threads)
            for form, graph in graphs.items()
        }
        taken = time_in_turns({form: (lambda run=run: run.run(image)) for form, run in loaded.items()}, rounds=rounds)
        labels = {form: np.asarray(run.run(image)) for form, run in loaded.items() if form in FORMS}
        wanted = labels["Resize, argmax after"] if wanted is None else wanted
        rows += [
            {
                "runtime": runtime,
                "precision": precision,
                "form": form,
                "ms": statistics.median(taken[form]),
                "same_labels": float((labels[form] == wanted).mean()) if form in labels else None,
            }
            for form in graphs
        ]
    return rows


def worth(name: str, network: SegNetwork, data: list[tuple[np.ndarray, np.ndarray]]) -> list[dict]:
    """mIoU of each form, and its agreement with the plain one."""
    found: dict[str, list[np.ndarray]] = {form: [] for form in FORMS}
    with torch.inference_mode():
        for image, _ in data:
            x = normalize(torch.from_numpy(image).permute(2, 0, 1)[None])
            logits = network.predict(x)
            for form, (upsampling, argmax) in FORMS.items():
                tail = ServingGraph(network, image="float", upsampling=upsampling, argmax=argmax)
                found[form].append(tail.labels_of(getattr(logits, "logits", logits), x)[0].numpy())
    plain, truth = found["Resize, argmax after"], [mask for _, mask in data]
    return [
        {"network": name, "form": form, "miou": miou(labels, truth), "agreement": agreement(labels, plain)}
        for form, labels in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CamVid's folder")
    parser.add_argument("--runs", type=Path, required=True, help="folder of NAME-seedN/best.safetensors")
    parser.add_argument("--models", default="fastscnn,bisenetv2,stdc,ddrnet")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    timed = times(given.threads, given.rounds)
    test = open_dataset("camvid", given.data, "test")
    data = [test.read(i) for i in range(len(test))]
    judged = [
        row
        for name, (network, _) in networks(given.runs, given.models.split(","), 0, None, False).items()
        for row in worth(name, network, data)
    ]
    write_json(
        RESULT,
        {
            "size": list(SIZE),
            "stride": STRIDE,
            "classes": OF_TAILS,
            "threads": given.threads,
            "rows": timed,
            "trained": judged,
            "images": len(data),
            "trained_classes": CLASSES,
            "machine": machine_record(),
            "environment": environment_record(),
        },
    )
    for row in timed:
        print(f"{row['runtime']} {row['precision']:<6}{row['form']:<28}{row['ms']:8.2f} ms  {row['same_labels']}")
    for row in judged:
        print(f"{row['network']:<12}{row['form']:<28}mIoU {row['miou']:.4f}  agreement {row['agreement']:.4f}")


if __name__ == "__main__":
    main()
