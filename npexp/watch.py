"""Looks at every number on the way to a training loss: which were the first to be NaN or infinite?"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from npexp.batch import TaskBatch
from npexp.likelihoods import Predictive
from npexp.module import NPModule
from npexp.objectives import Loss


class Reading(NamedTuple):
    """A tensor in one line.

    Args:
        name: e.g. "encoder.0", "head.stddev", "gradient of head.net.0.weight".
        kind: "batch", "weight", "output", "loss" or "gradient".
        shape: its size.
        norm: the Euclidean one; not finite where any value is not.
        low: smallest value.
        high: largest value.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    norm: float
    low: float
    high: float

    @classmethod
    def of(cls, name: str, kind: str, tensor: Tensor) -> "Reading":
        """Reads a tensor; an empty one has norm 0."""
        values = tensor.detach().double()
        low, high = (float(values.min()), float(values.max())) if values.numel() else (0.0, 0.0)
        return cls(name, kind, tuple(tensor.shape), float(values.norm()), low, high)

    @property
    def finite(self) -> bool:
        """Whether every value is."""
        return self.low - self.low == 0 == self.high - self.high  # NaN and infinities differ from themselves


def watch(module: NPModule, batch: TaskBatch, seed: int) -> list[Reading]:
    """Computes a micro-batch's loss and gradient and reads every tensor, in the order in which they come about.

    Gradients that the parameters hold stay as they are.

    Args:
        module: the training module; its precision is the trainer's, where it has one.
        batch: the micro-batch, on the module's device.
        seed: of the micro-batch's noise.
    """
    points = (("xc", batch.mask_c), ("yc", batch.mask_c), ("xt", batch.mask_t), ("yt", batch.mask_t))
    values = ((name, getattr(batch, name), mask) for name, mask in points)
    readings = [Reading.of(name, "batch", v if mask is None else v[mask]) for name, v, mask in values]
    named = [(name, p) for name, p in module.net.named_parameters() if p.requires_grad]
    readings += [Reading.of(name, "weight", p) for name, p in named]
    names = {child: name or type(child).__name__ for name, child in module.net.named_modules()}

    def note(child: nn.Module, _: Any, output: Any) -> None:
        readings.extend(Reading.of(name, "output", value) for name, value in tensors(names[child], output))

    hooks = [child.register_forward_hook(note) for child in names]
    try:
        torch.manual_seed(seed)
        loss = computed(module, batch)
    finally:
        for hook in hooks:
            hook.remove()
    readings += [Reading.of(name, "loss", value) for name, value in {**loss.parts, "total": loss.total}.items()]
    gradients = torch.autograd.grad(loss.total, [p for _, p in named], allow_unused=True)
    pairs = zip(named, gradients, strict=True)
    return readings + [Reading.of(name, "gradient", g) for (name, _), g in pairs if g is not None]


def computed(module: NPModule, batch: TaskBatch) -> Loss:
    """The loss of a micro-batch, in the precision of the trainer."""
    with torch.enable_grad(), module.trainer.precision_plugin.train_step_context():
        return module.loss(batch)


def tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors in what a module returns, by name: a law's parameters, the fields of a tuple."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield name, value
    elif isinstance(value, Predictive):
        for key, part in vars(value).items():
            yield from tensors(f"{name}.{key.strip('_')}", part)
    elif isinstance(value, tuple | list):
        keys = getattr(value, "_fields", range(len(value)))
        for key, part in zip(keys, value, strict=True):
            yield from tensors(f"{name}.{key}", part)


def first_bad(readings: list[Reading]) -> list[str]:
    """The first tensor of each kind with a value that is not finite, in words, and how many there are."""
    found = []
    for kind in ("batch", "weight", "output", "loss", "gradient"):
        bad = [reading.name for reading in readings if reading.kind == kind and not reading.finite]
        if bad and kind == "loss":
            found.append("loss " + ", ".join(bad))
        elif bad:
            words = {"batch": "batch", "weight": "weight", "output": "output of", "gradient": "gradient of"}[kind]
            found.append(f"{words} {bad[0]}" + (f" (first of {len(bad)})" if len(bad) > 1 else ""))
    return found
