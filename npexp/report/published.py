"""Published numbers, by the names that data and models have here: `published.csv`.

Its column "score" says what to hold against a value: "pooled" the test metric `loglik_pooled`, "joint" `loglik_joint`
times the number of outputs; both are nats per target, all outputs together. "checked" says whether someone has
confirmed the value, by the paper's own page or by an independent run of its code.
"""

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("published.csv")
SAME_AS = {"tnpd": "tnp"}  # names of ours for one published model


class Published(NamedTuple):
    """A row of the file: `value` and `error` in nats per target, as printed."""

    data: str
    test_set: str
    model: str
    score: str
    value: str
    error: str
    source: str
    table: str
    protocol: str
    checked: str

    @property
    def origin(self) -> str:
        """Where it stands, and how it was made."""
        return f"{self.source}, {self.table}: {self.protocol}"


@cache
def values() -> tuple[Published, ...]:
    """All of them."""
    with FILE.open(newline="") as file:
        return tuple(Published(**row) for row in csv.DictReader(file))


def published(data: str, test_set: str, model: str) -> list[Published]:
    """What was published for a model of ours, the original first.

    Args:
        data: the family of tasks, e.g. "gp_rbf".
        test_set: e.g. "test_matern52".
        model: e.g. "tnp", or "paper/tnpd" for the same one as published.
    """
    base = model.removeprefix("paper/")
    name = SAME_AS.get(base, base)
    return [row for row in values() if (row.data, row.test_set, row.model) == (data, test_set, name)]
