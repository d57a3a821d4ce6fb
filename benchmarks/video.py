"""What it brings to decode a video beside the network: frames a second with and without, in turns; writes benchmarks/results/video.json.

    python benchmarks/video.py [--model fastscnn] [--size 720x1280] [--frames 60] [--rounds 5]

The clip is drawn: a street that moves, H.263 in an .mp4. The network is ONNX Runtime's, with one thread fewer than cores, from pixels to labels in one graph as it is shipped; weights are random, since only time is asked for.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from rtseg.core.environment import environment_record
from rtseg.core.files import write_json
from rtseg.core.machine import available_cores
from rtseg.data.scenes import draw_scene
from rtseg.evaluation.video import frames_ahead, read_frames, write_video
from rtseg.models import create_model
from rtseg.runtimes.runtimes import load_runtime
from rtseg.runtimes.serving import ServingGraph

RESULT = Path(__file__).parent / "results" / "video.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fastscnn")
    parser.add_argument("--size", default="720x1280", help="height x width")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    words = parser.parse_args()
    height, width = map(int, words.size.split("x"))
    threads = max(1, available_cores() - 1)
    net = ServingGraph(create_model(words.model, num_classes=19))
    runtime = load_runtime(net, runtime="onnxruntime", threads=threads, shape=(1, height, width, 3))
    scene = draw_scene(np.random.default_rng(0), size=(height, width))[0]
    rates: dict[str, list[float]] = {"one after the other": [], "decoded ahead": []}
    with tempfile.TemporaryDirectory() as folder:
        film = write_video(Path(folder) / "drive.mp4", (np.roll(scene, 8 * i, 1) for i in range(words.frames)), fps=25)
        start = time.perf_counter()
        decoded = sum(1 for _ in read_frames(film)) / (time.perf_counter() - start)
        runtime(scene)
        for _ in range(words.rounds):
            for how, read in zip(rates, (read_frames, frames_ahead), strict=True):
                start = time.perf_counter()
                count = sum(runtime(frame).shape[0] > 0 for frame in read(film))
                rates[how].append(count / (time.perf_counter() - start))
    found = {how: round(statistics.median(values), 2) for how, values in rates.items()}
    before, after = found.values()
    record = {"environment": environment_record(), "model": words.model, "size": [height, width], "threads": threads}
    record |= {
        "frames": words.frames,
        "rounds": words.rounds,
        "decoding_per_second": round(decoded, 1),
        "frames_per_second": found,
        "rounds_per_second": {how: [round(rate, 2) for rate in values] for how, values in rates.items()},
    }
    write_json(RESULT, record | {"gain": round(after / before, 3)})
    print(record["rounds_per_second"], f"{after / before:.2f} times; decoding alone {decoded:.0f} frames/s")


if __name__ == "__main__":
    main()
