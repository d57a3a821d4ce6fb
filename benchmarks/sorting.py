"""How long it takes the mask viewer to sort a split by its worst image, the first time and in a session after it; writes benchmarks/results/sorting.json.

    python benchmarks/sorting.py --data ../shared/camvid [--model fastscnn] [--split test]

The second time another viewer opens the same contents: the network is built anew, files are recognised by their checksums, and the counts are read from the cache on disk. Weights are random.
"""

import argparse
import tempfile
import time
from pathlib import Path

from rtseg.core.environment import environment_record, seed_everything
from rtseg.core.files import write_json
from rtseg.data import open_dataset
from rtseg.explore.answers import Asked, Photos
from rtseg.models import create_model

RESULT = Path(__file__).parent / "results" / "sorting.json"


def sort(words: argparse.Namespace, kept: Path) -> tuple[float, list]:
    """Seconds of a sorting in a session of its own, and the scores."""
    seed_everything(0)
    data = open_dataset("camvid", words.data, words.split)
    network = create_model(words.model, num_classes=data.labels.num_classes).eval()
    asked = Asked(Photos(data), {words.model: network}, data.labels, kept=kept)
    start = time.perf_counter()
    scores = asked.scores(words.model)
    return time.perf_counter() - start, scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="fastscnn")
    parser.add_argument("--split", default="test")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (first, scores), (second, again) = (sort(words, Path(folder)) for _ in range(2))
    assert scores == again
    found = {"images": len(scores), "first, s": round(first, 2), "second, s": round(second, 2)}
    write_json(RESULT, {"environment": environment_record(), "model": words.model, "split": words.split, **found})
    print(found)


if __name__ == "__main__":
    main()
