"""Draws tnp.png: gaps of TNP-D to the exact GP against steps.

python results/tnp/plot.py
"""

from matplotlib import rc_context
from matplotlib.figure import Figure
from table import HERE, RELEASED, curves

from npexp.callbacks.figures import BLACK, BLUE, STYLE, VERMILION


def main() -> None:
    """Writes the figure."""
    with rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axis = figure.subplots()
        for (label, gaps), color in zip(curves().items(), (BLUE, BLACK, VERMILION), strict=True):
            points = "o--" if label == RELEASED else "-"
            axis.plot(gaps.keys(), gaps.values(), points, color=color, markersize=4, label=label.replace("`", ""))
        axis.set(xlabel="training steps of 16 tasks", ylabel="gap to the exact GP (nats per target)", ylim=(0, None))
        axis.legend()
        figure.savefig(HERE / "tnp.png")


if __name__ == "__main__":
    main()
