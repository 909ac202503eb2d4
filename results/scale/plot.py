"""Draws scale.png from scale.csv: log-likelihood, time and memory against the size of the context.

python results/scale/plot.py
"""

import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from npexp.callbacks.figures import COLOURS, GREY, STYLE

sys.path.append(str(Path(__file__).parents[1]))
from shared import read

HERE = Path(__file__).parent
TRAINED = (16, 128)  # context sizes of training
PANELS = {
    "gap": "nats below the exact log-likelihood",
    "seconds": "processor seconds of a prediction",
    "peak_mib": "peak memory of a prediction, MiB",
}


def main() -> None:
    """Writes the figure."""
    rows = [row for row in read(HERE / "scale.csv") if row["loglik"]]
    models = list(dict.fromkeys(row["model"] for row in rows))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.6), layout="constrained")
        for axis, (key, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
            for name, colour in zip(models, (*COLOURS, GREY), strict=False):
                own = sorted((row for row in rows if row["model"] == name), key=lambda row: int(row["context"]))
                bars = [float(row["gap_sem"]) for row in own] if key == "gap" else None
                x, y = zip(*((int(row["context"]), float(row[key])) for row in own), strict=True)
                axis.errorbar(x, y, bars, color=colour, marker="o", ms=3, linewidth=1.3, label=name)
            axis.set(xscale="log", yscale="linear" if key == "gap" else "log", xlabel="context points", ylabel=label)
            axis.axvspan(*TRAINED, color=GREY, alpha=0.2, linewidth=0)
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", ncols=len(models))
        figure.savefig(HERE / "scale.png", dpi=150)


if __name__ == "__main__":
    main()
