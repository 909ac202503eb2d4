"""Writes moment.md from the CSV files beside it.

python results/moment/table.py
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

sys.path.append(str(Path(__file__).parents[1]))
from shared import plus_minus, read

from npexp import tables
from npexp.report.published import published
from npexp.tables import markdown

HERE = Path(__file__).parent
TO = HERE / "moment.md"
Row = dict[str, str]
SCORES, LAWS = ("loglik_marginal", "oracle_gap_marginal"), ("matern52", "periodic")
HEADLINE = (  # model, steps, test tasks
    *(("limit", 0, "3,008"), ("rmnp", 85_000, "3,008"), ("rmnp", 85_000, "48,000")),
    *(("rmnp", 20_000, "3,008"), ("rmnp", 5_000, "3,008"), ("paper/tnpd", 5_000, "3,008")),
)
JOINT = ("rmnp_joint", "alpaca, fourier, joint", "law joint")  # the others have no joint score of their own
LIMIT = "no model can do better: hyperparameters integrated out"
NAMES = {
    "rmnp": "`rmnp`",
    "rmnp_joint": "`rmnp_joint`",
    "paper/tnpd": "TNP-D, `paper/tnpd`",
    "tnp, Fourier features, mixture": "`tnp` with 32 Fourier features and a mixture of ten normals",
    "alpaca, fourier": "one Bayesian last layer on Fourier features (`alpaca.py`)",
    "alpaca, fourier, diagonal": "the same with diagonal covariances",
    "alpaca, fourier, joint": "the same trained on its joint law",
    "alpaca, mlp": "the same on features by a network",
    "gp, noise known": "exact GP, maximum-likelihood hyperparameters, noise known (`gp_fit.py`, 320 tasks)",
    "gp, maximum likelihood": "the same, noise fitted too (320 tasks)",
}
ABLATIONS = {
    "full": "**full**: 64 Fourier features, 6 + 3 heads, mixture with misfit",
    "no solve": "no solve: A = I, what linear attention reads",
    "diagonal solve": "diagonal solve: A = I + diag(D G D)",
    "explicit inverse": "explicit inverse in float32",
    "no second pass": "no second pass: 6 fixed heads",
    "9 fixed heads": "9 fixed heads",
    "2 + 1 heads": "2 + 1 heads",
    "4 + 2 heads": "4 + 2 heads",
    "8 + 4 heads": "8 + 4 heads",
    "32 features": "32 features",
    "96 features": "96 features",
    "basis mlp": "features by a network",
    "basis fourier_mlp": "Fourier features through a network",
    "law mixture, no misfit": "mixture, no misfit",
    "law anchored": "one normal, anchored",
    "law plain": 'one normal, free ("plain")',
    "law joint": "joint law",
    "stationary": "`stationary`",
    "robust": "`robust`",
}
SETS = {  # of other_data.csv
    ("sawtooth", "test"): "sawtooth",
    ("shapes", "test"): "pictures of shapes",
    ("digits", "test"): "handwritten digits",
    ("digits", "test_unseen"): "handwritten digits, new classes",
    ("co2", "test"): "weekly CO2 of Mauna Loa, windows of two years",
    ("gp_rbf_2d", "test"): "RBF, two inputs",
    ("gp_rbf_2d", "test_matern52"): "RBF, two inputs, tested on Matérn-5/2",
    ("gp_rbf_3d", "test"): "RBF, three inputs",
    ("gp_rbf_3d", "test_matern52"): "RBF, three inputs, tested on Matérn-5/2",
    ("gp_rbf_2out", "test"): "RBF, two correlated outputs",
    ("gp_rbf_2out", "test_correlated"): "RBF, two correlated outputs, stronger correlations",
}
CHECKS = {
    "one by one": "one by one, random order",
    "insert 10, delete 10": "insert 10, delete 10",
    "4 shards": "merge 4 shards",
    "sliding window": "a million inserts and deletes",
}


def runs() -> dict[tuple[str, int], list[Row]]:
    """Rows of opponents.csv over seeds, by name and steps in the order of NAMES, below the limit."""
    found: dict[tuple[str, int], list[Row]] = {("limit", 0): [{"name": "limit", **bayes("test")}]}
    for row in sorted(
        read(HERE / "opponents.csv"), key=lambda row: (list(NAMES).index(row["name"]), int(row["steps"]))
    ):
        found.setdefault((row["name"], int(row["steps"])), []).append(row)
    return found


def opponents() -> str:
    """Every model, means over seeds."""
    heads = ["", "seeds", "steps", "weights", "marginal", "joint", "marginal gap", "joint gap", "Matérn-5/2"]
    lines = []
    for (name, steps), rows in runs().items():
        joint = rows if name in ("limit", *JOINT) else [{}]
        scores = [(rows, "loglik_marginal"), (joint, "loglik_joint"), (rows, "oracle_gap_marginal")]
        scores += [(joint, "oracle_gap_joint"), (rows, "matern52"), (rows, "periodic")]
        weights = f"{int(rows[0]['parameters']):,}" if steps else ""
        step = f"{float(rows[0]['step_in_cnp_steps']):.1f}" if steps else ""
        lines.append([NAMES.get(name, LIMIT), *_training(rows), weights, *(over_seeds(*s) for s in scores), step])
    return markdown([*heads, "periodic", "step"], lines)


def headline() -> str:
    """Some of them, by what they lack of the exact GP."""
    found = {(*key, "3,008"): rows for key, rows in runs().items()}
    found["rmnp", 85_000, "48,000"] = [row for row in read(HERE / "full_set.csv") if row["name"] == "rmnp"]
    return markdown(
        ["", "seeds", "steps of 16 tasks", "test tasks", "gap to the exact GP, nats per target"],
        [
            [NAMES.get(key[0], LIMIT), *_training(found[key]), key[2], over_seeds(found[key], "oracle_gap_marginal")]
            for key in HEADLINE
        ],
    )


def ablations() -> str:
    """Every change, in the order of ABLATIONS."""
    rows = {row["name"]: row for row in read(HERE / "ablations.csv")}
    heads = ["", "weights", "log-likelihood", "marginal gap", "joint gap", "Matérn-5/2", "periodic", "step"]
    return markdown(heads, [[words, *scores(rows[name])] for name, words in ABLATIONS.items()])


def full_set() -> str:
    """On as many tasks as published, beside what was published."""
    lines = []
    for row in read(HERE / "full_set.csv"):
        words = "`rmnp`" if row["name"] == "rmnp" else f"`rmnp`, {row['name']}"
        lines.append([words, f"{int(row['steps']):,}", *scores(row)])
    theirs = [published("gp_rbf", split, "tnp")[0].value for split in ("test", "test_matern52", "test_periodic")]
    lines.append(["TNP-D, published", "100,000", "", theirs[0], "", "", *theirs[1:], ""])
    heads = ["", "steps", "weights", "log-likelihood", "marginal gap", "joint gap", "Matérn-5/2", "periodic", "step"]
    return markdown(heads, lines)


def other_data() -> str:
    """Ours beside TNP-D, a row per test set."""
    rows = read(HERE / "other_data.csv")
    lines = []
    for (data, split), words in SETS.items():
        pair = {row["model"]: row for row in rows if (row["data"], row["test_set"]) == (data, split)}
        ours = next(name for name in pair if name != "tnp")
        found = [
            [f"{int(row['steps']):,}", plus_minus(row, "loglik_marginal"), plus_minus(row, "oracle_gap_marginal")]
            for row in (pair[ours], pair["tnp"])
        ]
        lines.append([words, f"`{ours}`", *found[0], *found[1]])
    heads = ["data", "ours", "steps", "log-likelihood", "gap", "TNP-D: steps", "log-likelihood", "gap"]
    return markdown(heads, lines)


def exactness() -> str:
    """Through what and with which sums in rows, checks in columns."""
    rows = {(row["through"], row["sums"], row["check"]): row["change"] for row in read(HERE / "exactness.csv")}
    ways = dict.fromkeys(key[:2] for key in rows)
    return markdown(
        ["through", "sums in", *CHECKS.values()],
        [[*way, *(f"{float(rows[*way, check]):.1e}".replace("0.0e+00", "0") for check in CHECKS)] for way in ways],
    )


def context() -> str:
    """Sizes in rows."""
    return markdown(
        ["context points", "tasks", "log-likelihood", "gap", "growth, MiB", "time per point, µs"],
        [
            [f"{int(row['context']):,}", row["tasks"]]
            + [plus_minus(row, key) for key in ("loglik", "gap")]
            + [f"{float(row['growth_mib']):.1f}", f"{float(row['us_per_point']):.3g}"]
            for row in read(HERE / "context.csv")
        ],
    )


def latency() -> str:
    """Models in rows."""
    return markdown(
        ["", "through", "state, bytes", "update, ms", "predict, ms", "both, over CMANP's"],
        [
            [f"`{row['model']}`", row["through"], f"{int(row['state_bytes']):,}"]
            + [f"{float(row[key]):.2f}" for key in ("update_ms", "predict_ms", "of_cmanp")]
            for row in read(HERE / "latency.csv")
        ],
    )


def limits() -> str:
    """What is attainable, and what not knowing the hyperparameters costs."""
    return markdown(
        ["tasks", "hyperparameters", "marginal", "cost", "joint", "cost"],
        [
            [f"{int(row['tasks']):,} of `{row['split']}`", "inferred" if int(row["draws"]) else "known"]
            + [plus_minus(row, f"{score}_{law}") for law in ("marginal", "joint") for score in ("loglik", "oracle_gap")]
            for row in read(HERE / "bayes.csv")
        ],
    )


def bayes(split: str) -> Row:
    """The row of bayes.csv in which the hyperparameters of these tasks are integrated out."""
    return next(row for row in read(HERE / "bayes.csv") if row["split"] == split and int(row["draws"]))


def scores(row: Row) -> list[str]:
    """What a model without seeds was measured at."""
    joint = plus_minus(row, "oracle_gap_joint") if row["name"] in JOINT else ""
    own, laws = ([plus_minus(row, key) for key in keys] for keys in (SCORES, LAWS))
    return [f"{int(row['parameters']):,}", *own, joint, *laws, f"{float(row['step_in_cnp_steps']):.1f}"]


def over_seeds(rows: Sequence[Row], key: str) -> str:
    """Mean and standard deviation over seeds; of one, the value and its error over tasks."""
    if len(rows) == 1:
        return plus_minus(rows[0], key)
    values = [float(row[key]) for row in rows]
    return tables.plus_minus(mean(values), stdev(values), 4)


def _training(rows: Sequence[Row]) -> list[str]:
    """Seeds and steps, where there are any."""
    return [str(len(rows)), f"{int(rows[0]['steps']):,}"] if int(rows[0].get("steps", 0)) else ["", ""]


PARTS = {  # what pages quote
    "headline": headline,
    "full_set": full_set,
    "ablations": ablations,
    "other_data": other_data,
    "context": context,
}
TITLES = {
    "1-D RBF": opponents,
    "On as many tasks as published, 48,000": full_set,
    "What is attainable on 1-D RBF": limits,
    "Ablations": ablations,
    "Other data, at equal computing time": other_data,
    "Context far beyond training": context,
    "Exactness: largest change of a prediction, in standard deviations": exactness,
    "Latency": latency,
}


def text() -> str:
    """All tables."""
    return "\n".join(f"# {title}\n\n{table()}" for title, table in TITLES.items())


if __name__ == "__main__":
    TO.write_text(text())
