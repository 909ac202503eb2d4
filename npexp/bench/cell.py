"""One measurement, in the process that is to be measured: what a model does once with a context of one size."""

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from npexp.batch import TaskBatch
from npexp.bench.machine import clocks
from npexp.bench.subjects import Subject, load
from npexp.cost import Operations
from npexp.memory import peak_memory, reset_peak_memory
from npexp.models.base import NeuralProcess, State
from npexp.objectives import OBJECTIVES
from npexp.ops.tree import nbytes

NEW = 10  # points of an update
DRAWS = 50  # of a sample
SECONDS = 2.0  # after which there are no more rounds
FEW = 32  # points that whatever is loaded on first use is loaded with


class Cell(NamedTuple):
    """What is measured.

    Args:
        model: see `npexp.bench.subjects.load`.
        mode: one of `MODES`.
        context: points of the context.
        targets: to predict.
        batch: tasks at once.
        device: where to compute.
        dtype: "float32" or "float64"; "bfloat16" computes as mixed-precision training does, weights in float32.
        repeats: most rounds.
    """

    model: str
    mode: str
    context: int
    targets: int
    batch: int
    device: str
    dtype: str
    repeats: int


class Work(NamedTuple):
    """A call that can be repeated, and the state that it reads; one that makes a state returns it."""

    run: Callable[[], Any]
    state: State | None


class Inputs(NamedTuple):
    """Tasks with x uniform on [-2, 2] and y standard normal: context, targets, and points of an update."""

    context: tuple[Tensor, Tensor]
    targets: tuple[Tensor, Tensor]
    new: tuple[Tensor, Tensor]


def measure(cell: list[Any]) -> dict[str, Any]:
    """Measures a cell, given as a list of its fields.

    Returns:
        `cpu`, `wall`: quartiles of seconds over the rounds, `[first, median, third]`. `rounds`: how many. `peak`: bytes
        by which the first call's peak memory exceeds model, inputs and the state that is read; None where it cannot be
        known. `state`: bytes of the state after the call. `flops`: operations of matrix products and the like, as
        `npexp.cost.Operations` counts them. `least`: bytes of weights and of the states read and made, each once.
    """
    return measured(load(Cell(*cell).model), Cell(*cell))


@torch.random.fork_rng(devices=[])  # the caller's random numbers stay as they are
def measured(subject: Subject, cell: Cell) -> dict[str, Any]:
    """`measure` of a model in memory."""
    torch.manual_seed(0)
    device = torch.device(cell.device)
    net = subject.net.to(device, torch.float64 if cell.dtype == "float64" else torch.float32)
    prepare(subject, cell._replace(context=min(cell.context, FEW), targets=min(cell.targets, FEW))).run()
    net.zero_grad()
    work = prepare(subject, cell)
    known = reset_peak_memory(device)
    before = peak_memory(device)
    out = work.run()
    peak = peak_memory(device) - before if known else None
    states = [state for state in (work.state, out) if isinstance(state, State)]
    del out
    with Operations() as counted:
        work.run()
    rounds: list[tuple[float, float]] = []
    while len(rounds) < 3 or (len(rounds) < cell.repeats and sum(wall for _, wall in rounds) < SECONDS):
        rounds.append(clocks(work.run, device))
    cpu, wall = (statistics.quantiles(seconds, n=4, method="inclusive") for seconds in zip(*rounds, strict=True))
    return {
        "cpu": cpu,
        "wall": wall,
        "rounds": len(rounds),
        "peak": peak,
        "state": nbytes(states[-1]) if states else None,
        "flops": counted.matrices,
        "least": sum(t.nbytes for t in (*net.parameters(), *net.buffers())) + sum(map(nbytes, states)),
    }


def prepare(subject: Subject, cell: Cell) -> Work:
    """The call of a mode, ready to run; the model is on its device."""
    return MODES[cell.mode](subject, cell, inputs(subject.net, cell))


def inputs(net: NeuralProcess, cell: Cell) -> Inputs:
    """Tasks of the cell's sizes, the same for all models, made on the CPU."""
    kind = torch.float64 if cell.dtype == "float64" else torch.float32
    source = torch.Generator().manual_seed(0)

    def points(n: int) -> tuple[Tensor, Tensor]:
        x = 4 * torch.rand(cell.batch, n, net.dx, generator=source, dtype=torch.float64) - 2
        y = torch.randn(cell.batch, n, net.dy, generator=source, dtype=torch.float64)
        return x.to(cell.device, kind), y.to(cell.device, kind)

    return Inputs(points(cell.context), points(cell.targets), points(NEW))


def precision(cell: Cell) -> AbstractContextManager[Any]:
    """Mixed precision for "bfloat16", nothing otherwise."""
    return torch.autocast(torch.device(cell.device).type, torch.bfloat16, enabled=cell.dtype == "bfloat16")


def train(subject: Subject, cell: Cell, given: Inputs) -> Work:
    """A training step: gradients by the objective of the model's experiment, their norm clipped, and the optimiser."""
    net, settings = subject.net.train(), subject.training["model"]
    if (size := settings.get("train_chunk_size")) is not None:
        net.train_chunk_size = size
    batch = TaskBatch(*given.context, *given.targets)
    objective = OBJECTIVES[settings.get("objective", "loglik")]
    options = settings.get("num_samples", 4), settings.get("include_context", False)
    module, _, name = settings["optimizer"]["class_path"].rpartition(".")
    optimizer = getattr(import_module(module), name)(net.parameters(), **settings["optimizer"].get("init_args", {}))
    clip = subject.training["trainer"].get("gradient_clip_val")

    def step() -> None:
        optimizer.zero_grad()
        with precision(cell):
            loss = objective(net, batch, *options).total
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()

    return Work(step, None)


def encode(subject: Subject, cell: Cell, given: Inputs) -> Work:
    """Conditions on the context."""
    net = subject.net.eval()
    return Work(_in_use(cell, lambda: net.encode(*given.context)), None)


def predict(subject: Subject, cell: Cell, given: Inputs) -> Work:
    """Means and standard deviations of the targets, from the state."""
    state = encode(subject, cell, given).run()

    def run() -> Any:
        law = subject.net.predict(state, given.targets[0])
        return law.mean, law.stddev

    return Work(_in_use(cell, run), state)


def update(subject: Subject, cell: Cell, given: Inputs) -> Work:
    """Takes ten more points into the state."""
    state = encode(subject, cell, given).run()
    return Work(_in_use(cell, lambda: subject.net.update(state, *given.new)), state)


def sample(subject: Subject, cell: Cell, given: Inputs) -> Work:
    """Fifty draws of the targets from the state, jointly as far as the law is joint, or one after the other."""
    state = encode(subject, cell, given).run()
    return Work(_in_use(cell, lambda: subject.net.predict(state, given.targets[0]).sample(DRAWS)), state)


def _in_use(cell: Cell, call: Callable[[], Any]) -> Callable[[], Any]:
    """The call as it is made in use, without gradients."""

    @torch.inference_mode()
    def run() -> Any:
        with precision(cell):
            return call()

    return run


MODES = {"train": train, "encode": encode, "predict": predict, "update": update, "sample": sample}
