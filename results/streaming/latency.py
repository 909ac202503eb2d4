"""What an event of a sliding window costs: the oldest reading goes, a new one comes, the next one is predicted.

    OMP_NUM_THREADS=1 python results/streaming/latency.py [--ckpt NAME_OR_PATH] [--windows 100 1000 10000]

Writes latency.csv beside this file: processor time in units of that of `updated`, medians over rounds in which all take
turns, one thread; each does two events in its turn, of which the second counts, so that none finds the cache as another
left it. `updated` and `encoded` go through `npexp.Predictor`, the latter by encoding the window at once;
`predicted` is the prediction alone, which both end with. The exact GP, in float64, its hyperparameters given: `gp`
factorises the covariance of the window, `gp_updated` keeps its inverse and changes it by two matrices of rank one.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from stream import WindowGP

import npexp
from npexp.likelihoods import Predictive

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from shared import Table  # noqa: E402

COLUMNS = ["window", "method", "ratio", "rounds"]
ROUNDS = {100: 60, 1_000: 30, 10_000: 3}
EVENTS = 2 * (max(ROUNDS.values()) + 1)  # in a stream, those of the first round not counting


class Window:
    """A window of a long stream, and who follows it.

    Args:
        predictor: of the model.
        size: readings in the window.
    """

    def __init__(self, predictor: npexp.Predictor, size: int):
        g = torch.Generator().manual_seed(0)
        self.x = 4 * torch.rand(size + EVENTS + 1, generator=g, dtype=torch.float64) - 2
        self.y = (3 * self.x).sin() + 0.02 * torch.randn(len(self.x), generator=g, dtype=torch.float64)
        self.predictor, self.size = predictor, size
        self.state = predictor.condition(*self.points(0, size))
        self.gp = WindowGP(self.x[:size], self.y[:size], 0.35, 0.55)

    def points(self, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Readings, as the predictor takes them."""
        return self.x[first:last], self.y[first:last]

    def updated(self, event: int) -> Predictive:
        """The state without the oldest reading and with the new one."""
        now = event + self.size
        self.state = self.predictor.remove(self.state, *self.points(event, event + 1))
        self.state = self.predictor.update(self.state, *self.points(now, now + 1))
        return self.read(self.state, now + 1)

    def encoded(self, event: int) -> Predictive:
        """The window, encoded at once."""
        return self.read(
            self.predictor.condition(*self.points(event + 1, event + 1 + self.size)), event + 1 + self.size
        )

    def predicted(self, event: int) -> Predictive:
        """The last part of both, alone."""
        return self.read(self.state, event + 1 + self.size)

    def read(self, state: npexp.models.base.State, at: int) -> Predictive:
        """The law of the next reading, worked out."""
        law = self.predictor.predict(state, self.x[at : at + 1])
        _ = law.mean, law.stddev
        return law

    def gp_updated(self, event: int) -> None:
        """The exact law, the inverse covariance being changed; comes before `gp`."""
        self.gp.replace(self.x[event + self.size], self.y[event + self.size])
        self.gp.predict(self.x[event + self.size + 1])

    def gp_anew(self, event: int) -> None:
        """The exact law, by a Cholesky factor of the window's covariance."""
        self.gp.anew(self.x[event + self.size + 1])


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", default="rmnp-gp-rbf", help="a pretrained model, a checkpoint or a run")
    parser.add_argument("--windows", nargs="+", type=int, choices=ROUNDS, default=list(ROUNDS))
    parser.add_argument("--table", type=Path, default=HERE / "latency.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table, predictor = Table(args.table, COLUMNS, ("window", "method")), npexp.load_predictor(args.ckpt)
    for size in args.windows:
        window = Window(predictor, size)
        takers: dict[str, Callable[[int], object]] = {"updated": window.updated, "encoded": window.encoded}
        takers |= {"predicted": window.predicted, "gp_updated": window.gp_updated, "gp": window.gp_anew}
        times: dict[str, list[float]] = {name: [] for name in takers}
        for event in range(0, 2 * (ROUNDS[size] + 1), 2):
            for name, take in takers.items():
                take(event)
                start = time.process_time()
                take(event + 1)
                times[name].append(time.process_time() - start)
        for name, taken in times.items():
            ratios = [own / base for own, base in zip(taken[1:], times["updated"][1:], strict=True)]
            if not table.has(window=size, method=name):
                row = {"window": size, "method": name, "ratio": statistics.median(ratios), "rounds": len(ratios)}
                table.add(row)


if __name__ == "__main__":
    main()
