"""A sensor's readings of a field that drifts: who predicts the next one best, and what forgetting is worth.

    OMP_NUM_THREADS=1 python results/streaming/run.py [--ckpt NAME_OR_PATH] [--model rmnp] [--methods ...] [--spans ...]

At each of 2,000 irregular times every stream is read at a random place (`stream.py`); before that the reading is
predicted from those so far. The model sees places and readings but no times: it takes in each reading as it comes, and
forgets. `window`: what is older than `--spans` is removed from the state, by subtraction; `decay`: every reading's
weight falls to 1/e in that time; `all`: nothing is forgotten. Beside it the exact GP of each field, its hyperparameters
known: on the same window, as if nothing drifted (`gp_static`) or with the drift (`gp`), and on all before, `exact`,
which nobody can beat on average.

Adds rows to streaming.csv beside this file: log-likelihood and root mean squared error of readings from the 500th on,
every sixth for all methods, since exact ones take long; standard errors are those of streams. `difference` compares
the last state with one that is encoded from the last window at once: of the law at 64 places, in its standard
deviations. Rows that are there are kept.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from stream import Streams, draw, window_law
from torch import Tensor

import npexp
from npexp.models.base import State
from npexp.ops.tree import tree_map

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from shared import Table  # noqa: E402

DRIFTS = [500.0, 2000.0]
SPANS = (8, 16, 32, 64, 128, 256)
FIELDS, EVENTS, WARM_UP, EVERY, TOGETHER = 16, 2_000, 500, 6, 2
METHODS = ("exact", "gp", "gp_static", "window", "decay", "all")
KEY = ["method", "model", "span", "drift", "streams", "events"]
COLUMNS = [*KEY, "loglik", "loglik_sem", "rmse", "rmse_sem", "difference"]
SCORED = range(WARM_UP, EVENTS, EVERY)


def first_of(s: Streams, event: int, span: float) -> int:
    """The first event no older than `span` at the time of another."""
    return int(torch.searchsorted(s.t, s.t[event] - span))


def gaussian(s: Streams, means: Tensor, stddevs: Tensor) -> tuple[Tensor, Tensor]:
    """Log-likelihoods and squared errors of the scored readings, `[b, scored]` each."""
    y = s.y[:, list(SCORED), 0]
    return torch.distributions.Normal(means, stddevs).log_prob(y), (means - y).square()


def exact(s: Streams, method: str, span: float) -> tuple[Tensor, Tensor]:
    """`gaussian` of the processes that know the field's hyperparameters."""
    if method == "exact":
        return gaussian(s, s.mean[:, list(SCORED)], s.stddev[:, list(SCORED)])
    laws = [window_law(s, first_of(s, i, span), i, method == "gp") for i in SCORED]
    return gaussian(s, *(torch.stack(part, 1) for part in zip(*laws, strict=True)))


def follow(predictor: npexp.Predictor, s: Streams, method: str, span: float) -> tuple[Tensor, Tensor, float | str]:
    """`gaussian`, by the model's own law, and the difference to a state that is encoded at once."""
    state, first, found, waiting = predictor.condition(s.x[:, :0], s.y[:, :0]), 0, [], []
    for i in range(EVENTS):
        if i and method == "decay":
            state = predictor.decay(state, float((-(s.t[i] - s.t[i - 1]) / span).exp()))
        if method == "window" and (new := first_of(s, i, span)) > first:
            state, first = predictor.remove(state, s.x[:, first:new], s.y[:, first:new]), new
        if i in SCORED:
            waiting.append((i, state))
            if len(waiting) == TOGETHER or i == SCORED[-1]:
                found.append(scores(predictor, s, waiting))
                waiting = []
        state = predictor.update(state, s.x[:, i : i + 1], s.y[:, i : i + 1])
    logliks, errors = (torch.cat(part, 1) for part in zip(*found, strict=True))
    if method == "decay":  # there is no other way to the same state
        return logliks, errors, ""
    places = torch.linspace(-2, 2, 64)[None, :, None].expand(len(s.x), -1, -1)
    ours = predictor.predict(state, places)
    anew = predictor.predict(predictor.condition(s.x[:, first:], s.y[:, first:]), places)
    change = torch.maximum((ours.mean - anew.mean).abs(), (ours.stddev - anew.stddev).abs()) / anew.stddev
    return logliks, errors, float(change.max())


def scores(predictor: npexp.Predictor, s: Streams, waiting: list[tuple[int, State]]) -> tuple[Tensor, Tensor]:
    """Log-likelihoods and squared errors of some readings `[b, num]`, each from its state; all in one batch."""
    events, states = zip(*waiting, strict=True)
    summary = tree_map(lambda *parts: torch.cat(parts), *(state.summary for state in states))
    x, y = (torch.cat([v[:, i : i + 1] for i in events]) for v in (s.x, s.y))
    law = predictor.predict(State(summary, torch.cat([state.n for state in states]), None), x)
    loglik, error = law.marginal_log_prob(y), (law.mean - y).square()
    return tuple(v.reshape(len(events), -1).mT for v in (loglik, error))


def rows(s: Streams, facts: dict[str, Any], logliks: Tensor, errors: Tensor, difference: float | str) -> Any:
    """A row for each drift; what counts is the mean over a stream."""
    for drift in DRIFTS:
        mine = s.drift[:, 0, 0] == drift
        row = {**facts, "drift": drift, "streams": FIELDS, "events": EVENTS, "difference": difference}
        for name, values in (("loglik", logliks.mean(1)[mine]), ("rmse", errors.mean(1)[mine].sqrt())):
            row |= {name: float(values.mean()), f"{name}_sem": float(values.std() / FIELDS**0.5)}
        yield row


def main() -> None:
    """Fills the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", default="rmnp-gp-rbf", help="a pretrained model, a checkpoint or a run")
    parser.add_argument("--model", default="rmnp", help="its name in the table")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--spans", nargs="+", type=int, default=SPANS)
    parser.add_argument("--table", type=Path, default=HERE / "streaming.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table, s = Table(args.table, COLUMNS, KEY), draw(DRIFTS, FIELDS, EVENTS)
    predictor = None
    for method in args.methods:
        of_model = method in ("window", "decay", "all")
        for span in args.spans if method not in ("exact", "all") else ("",):
            facts = {"method": method, "model": args.model if of_model else "", "span": span}
            if all(table.has(**facts, drift=drift, streams=FIELDS, events=EVENTS) for drift in DRIFTS):
                continue
            if of_model and predictor is None:
                predictor = npexp.Predictor(npexp.load_predictor(args.ckpt).model.double())  # or differences drown
            found = follow(predictor, s, method, span) if of_model else (*exact(s, method, span), "")
            for row in rows(s, facts, *found):
                table.add(row)


if __name__ == "__main__":
    main()
