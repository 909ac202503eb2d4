"""Layers of which each row uses a part only: more parameters than work."""

from abc import ABC, abstractmethod

from torch import nn


class Conditional(nn.Module, ABC):
    """A layer that chooses for each row, by that row alone, which of its parameters take part."""

    @property
    @abstractmethod
    def idle(self) -> int:
        """Parameters that a row leaves alone."""


def active_parameters(module: nn.Module) -> int:
    """Parameters that take part in the forward pass of one row; all of them where no layer is `Conditional`."""
    total = sum(p.numel() for p in module.parameters())
    return total - sum(m.idle for m in module.modules() if isinstance(m, Conditional))
