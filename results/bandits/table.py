"""Writes wheel.md from wheel.csv and speed.csv.

python results/bandits/table.py
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from shared import read

from npexp.tables import markdown, plus_minus

HERE = Path(__file__).parent
TO = HERE / "wheel.md"
PUBLISHED = {  # Nguyen & Grover 2022, arXiv 2207.04179: per cent and standard deviation, at the radii below
    "TNP-D": ((1.18, 0.94), (1.70, 0.41), (2.55, 0.43), (3.57, 1.22), (4.68, 1.09)),
    "CNP": ((4.08, 0.29), (8.14, 0.33), (8.01, 0.40), (26.78, 0.85), (38.25, 1.01)),
}
RUN = ("agent", "rule", "train", "steps", "lr", "seed", "parameters", "game", "games")  # with these, a row of the table


def text() -> str:
    """Agents in rows and radii in columns; models in rows and lengths of the history in columns."""
    rows = read(HERE / "wheel.csv")
    found = {(*(row[key] for key in RUN), float(row["delta"])): row for row in rows}
    deltas = sorted({float(row["delta"]) for row in rows})
    scores = []
    for run in dict.fromkeys(tuple(row[key] for key in RUN) for row in rows):
        agent, rule, train, steps, lr, seed, parameters, game, games = run
        training = f"{int(steps):,} steps at {lr}, {train} wheels, seed {seed}" if train else ""
        weights = f"{int(parameters):,}" if parameters else ""
        cells = [regret(found.get((*run, delta), {})) for delta in deltas]
        scores.append([f"`{agent}`", rule, training, weights, f"{games} {game}", *cells])
    for agent, values in PUBLISHED.items():
        cells = [plus_minus(*value, digits=2) for value in values]
        scores.append([f"{agent}, published", "ucb", "100,000 steps", "", "50 published", *cells])
    heads = ["agent", "rule", "training", "weights", "games", *(f"delta = {delta:g}" for delta in deltas)]
    times = read(HERE / "speed.csv")
    speed = {(row["model"], row["update"], int(row["history"])): float(row["steps_per_second"]) for row in times}
    histories = sorted({history for *_, history in speed})
    steps = markdown(
        ["model", "update", *(f"after {history:,} steps" for history in histories)],
        [
            [f"`{model}`", update]
            + [f"{speed[model, update, n]:,.0f}" if (model, update, n) in speed else "" for n in histories]
            for model, update in dict.fromkeys((row["model"], row["update"]) for row in times)
        ],
    )
    regrets = "# Regret in per cent of the uniform agent's, ± the standard deviation over games"
    return f"{regrets}\n\n{markdown(heads, scores)}\n# Steps of one game per second of processor time\n\n{steps}"


def regret(row: dict[str, str]) -> str:
    """A cell; empty where there is no row."""
    return plus_minus(float(row["regret_percent"]), float(row["spread"]), 2) if row else ""


if __name__ == "__main__":
    TO.write_text(text())
