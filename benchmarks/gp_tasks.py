"""Tasks a second from the Gaussian processes of the published protocol, 25 + 25 points, with their exact oracle.

    OMP_NUM_THREADS=1 python benchmarks/gp_tasks.py [--rounds 20] [--json FILE]

Batches of 16 as training draws them, in float64 with GPyTorch's covariances; processor time. One row for each of the
kernels that the protocol trains and tests on, in turns.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import npexp
from benchmarks.timing import Spread, report, take_turns
from datamodules.sampled import SampledTasks

BATCHES = 20  # per turn


def draw(data: SampledTasks, split: str, numbers: Iterator[int]) -> None:
    """The next batch; evaluation batches are drawn as training's are, by number, and none is kept."""
    data.make_batch(split, next(numbers) % data.num_batches("test"))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="two or more; default: %(default)s")
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    data = npexp.build_data("gp_rbf", num_context=[25, 25], num_target=[25, 25], max_points=50)
    numbers = count()
    splits = {"rbf": "train", "matern52": "test_matern52", "periodic": "test_periodic"}
    calls = {name: partial(draw, data, split, numbers) for name, split in splits.items()}
    taken = take_turns(calls, words.rounds, BATCHES)
    rows = [
        {"kernel": name, "tasks / s": Spread.of([data.batch_size / seconds for seconds in taken[name]])}
        for name in calls
    ]
    report(rows, words.json)


if __name__ == "__main__":
    main()
