"""Published numbers, by the names that data and models have here: `published.csv`.

Its column "score" says what to hold against a value: "pooled" the test metric `loglik_pooled`, "joint" `loglik_joint`
times the number of outputs; both are nats per target, all outputs together. Errors are as printed, of which papers
seldom say whether they are standard deviations over seeds or standard errors. "checked" says whether someone has
confirmed the value, by the paper's own page or by an independent run of its code.
"""

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from npexp.config import find_config, flatten, read_config

FILE = Path(__file__).with_name("published.csv")
SAME_AS = {"tnpd": "tnp"}  # names of ours for one published model
OF_EACH_RUN = (  # settings of the data that leave its law as it is
    *("path", "seed", "num_workers", "cache_dir", "steps_per_epoch", "batch_size", "eval_batch_size"),
    *("num_val", "num_val_batches", "num_test_batches"),
)


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


def comparable(facts: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether what was published for a run's model and data may stand beside it.

    It may not where the run has another law of the data, class of model or likelihood, mixer or decoding than the
    shipped configurations of these names, or was trained on other data than it was tested on. Sizes may differ.

    Args:
        facts: of the run; its model and data are names of shipped configurations.
        config: what it was trained with, flat; what it does not say is taken to be as shipped.
    """
    if facts.get("decoding") or facts.get("mixer", "dense") != "dense":
        return False
    data, model = (read_config(find_config(f"{group}/{facts[group]}"))[group] for group in ("data", "model"))
    law, net = flatten(data["init_args"], "data.init_args"), flatten(model["net"], "model.net")
    wanted = {key: value for key, value in law.items() if key.rpartition(".")[2] not in OF_EACH_RUN}
    wanted |= {key: value for key, value in net.items() if key.endswith("class_path")}
    wanted["data_name"] = facts["data"]
    return all(config.get(key, value) == value for key, value in wanted.items())
