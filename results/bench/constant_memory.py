"""Training on long contexts: peak memory and time of a step, with all kept for the backward pass and in chunks.

    python results/bench/constant_memory.py [--models ...] [--sizes 1000 10000 100000] [--chunk 1000] [--plot]

Writes constant_memory.csv beside this file and draws constant_memory.png; `--plot` draws only. A step of Adam on one
task with 256 targets, one thread, float32, models as `npexp.build` makes them, `train_chunk_size` as given. `*_mib` is
the growth of the peak memory over a step, after one on a short context, in a process of its own that may take 8 GiB:
data, gradients, activations. `*_seconds` is processor time, medians over rounds in which both kinds of steps take turns
in one process, `ratio` the median of the rounds' ratios. Rows that are there are kept.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import npexp
from npexp import fresh
from npexp.memory import peak_memory, reset_peak_memory

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from shared import Table, read, train_step  # noqa: E402

COLUMNS = ["model", "context", "chunk", "plain_mib", "chunked_mib", "plain_seconds", "chunked_seconds", "ratio"]
MODELS = ("cmanp", "linear_tnp_raw", "hypermixer_tnp_raw", "rmnp")
TARGETS, SHORT, LIMIT, PATIENCE = 256, 300, 8 << 30, 3600.0
ROUNDS = {1_000: 11, 10_000: 5}


def stepper(model: str, chunk: int | None) -> Callable[[int], None]:
    """Takes a step on a context of a given size."""
    torch.manual_seed(0)
    net = npexp.build(model, dx=1, dy=1).train()
    net.train_chunk_size = chunk
    optimizer = torch.optim.Adam(net.parameters(), 1e-6, fused=True)

    def step(size: int) -> None:
        x = 4 * torch.rand(1, size + TARGETS, 1) - 2
        y = (3 * x).sin() + 0.1 * torch.randn_like(x)
        batch = npexp.TaskBatch(x[:, TARGETS:], y[:, TARGETS:], x[:, :TARGETS], y[:, :TARGETS])
        train_step(net, optimizer, batch)

    return step


def growth(model: str, size: int, chunk: int | None) -> float:
    """MiB by which the peak grows over a step."""
    step, device = stepper(model, chunk), torch.device("cpu")
    step(SHORT)
    reset_peak_memory(device)
    before = peak_memory(device)
    step(size)
    return (peak_memory(device) - before) / 2**20


def seconds(model: str, size: int, chunk: int) -> tuple[float, float, float]:
    """Of a plain step and of one in chunks, and how many times longer the latter takes."""
    steps, rounds = [stepper(model, c) for c in (None, chunk)], []
    for step in steps:
        step(SHORT)
    for _ in range(ROUNDS.get(size, 3)):
        taken = []
        for step in steps:
            start = time.process_time()
            step(size)
            taken.append(time.process_time() - start)
        rounds.append(taken)
    plain, chunked = (statistics.median(taken) for taken in zip(*rounds, strict=True))
    return plain, chunked, statistics.median(b / a for a, b in rounds)


def measure(model: str, size: int, chunk: int) -> dict[str, Any]:
    """A row; what does not fit says so."""
    call = lambda name, *args: fresh.call(f"constant_memory:{name}", *args, timeout=PATIENCE, memory=LIMIT, threads=1)  # noqa: E731
    row: dict[str, Any] = {"model": model, "context": size, "chunk": chunk}
    for kind, of in (("plain", None), ("chunked", chunk)):
        found = call("growth", model, size, of)
        row[f"{kind}_mib"] = round(found.value, 1) if found.status == fresh.OK else found.status
    found = call("seconds", model, size, chunk)
    times = found.value if found.status == fresh.OK else [found.status] * 3
    return row | dict(zip(COLUMNS[-3:], times, strict=True))


def plot(rows: list[dict[str, str]], to: Path) -> None:
    """Memory against the size of the context: dashed with all kept, solid in chunks."""
    # not where memory and time are measured
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from npexp.callbacks.figures import BLACK, BLUE, GREY, STYLE, VERMILION

    colours = dict(zip(MODELS, (BLUE, VERMILION, BLACK, GREY), strict=True))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        axis = figure.add_subplot()
        for model in dict.fromkeys(row["model"] for row in rows):
            own = sorted((row for row in rows if row["model"] == model), key=lambda row: int(row["context"]))
            for kind, line in (("plain", "--"), ("chunked", "-")):
                known = [(int(r["context"]), float(r[f"{kind}_mib"])) for r in own if r[f"{kind}_mib"][:1].isdigit()]
                label = model if kind == "chunked" else None
                axis.plot(*zip(*known, strict=True), line, marker="o", ms=3, color=colours.get(model), label=label)
        axis.set(xscale="log", yscale="log", xlabel="context points", ylabel="peak of a training step, MiB")
        axis.set_title("dashed: all kept; solid: chunks computed again", loc="left")
        axis.legend()
        figure.savefig(to)


def main() -> None:
    """Measures what is missing, then draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--sizes", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--chunk", type=int, default=1_000)
    parser.add_argument("--plot", action="store_true")
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = str(HERE)  # where the processes of their own find this file
    table = Table(HERE / "constant_memory.csv", COLUMNS, COLUMNS[:3])
    for size in [] if args.plot else args.sizes:
        for model in args.models:
            if not table.has(model=model, context=size, chunk=args.chunk):
                table.add(measure(model, size, args.chunk))
    plot([row for row in read(table.path) if row["chunk"] == str(args.chunk)], HERE / "constant_memory.png")


if __name__ == "__main__":
    main()
