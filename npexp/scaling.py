"""The units a model was trained in, and the raw ones that its users have."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from npexp.errors import ConfigError
from npexp.likelihoods import Affine, Predictive


class Scaling(NamedTuple):
    """What a datamodule does to raw values: x = (raw x - x_shift) / x_scale, and y alike.

    Plain numbers, which travel in the checkpoint.

    Args:
        x_shift: one per input column.
        x_scale: one per input column, positive.
        y_shift: one per output column.
        y_scale: one per output column, positive.
    """

    x_shift: Sequence[float]
    x_scale: Sequence[float]
    y_shift: Sequence[float]
    y_scale: Sequence[float]

    @classmethod
    def make(cls, settings: Any, dx: int, dy: int) -> "Scaling":
        """From a mapping of the four names, as datamodules and checkpoints hold it.

        Raises:
            ConfigError: a name too many or too few, another number of columns, a scale that is not positive.
        """
        if not isinstance(settings, dict) or set(settings) != set(cls._fields):
            raise ConfigError(f"expected a scaling to be a dict of {', '.join(cls._fields)}, got {settings!r}")
        sizes = {"x_shift": dx, "x_scale": dx, "y_shift": dy, "y_scale": dy}
        for name, values in settings.items():
            numbers = isinstance(values, list | tuple) and all(isinstance(v, int | float) for v in values)
            if not numbers or len(values) != sizes[name] or not all(map(math.isfinite, values)):
                raise ConfigError(f"expected {name} to be {sizes[name]} finite numbers, got {values!r}")
            if name.endswith("scale") and min(values) <= 0:
                raise ConfigError(f"expected {name} > 0, got {list(values)}: leave constant columns out")
        return cls(**{name: [float(v) for v in values] for name, values in settings.items()})

    def x(self, raw: Tensor) -> Tensor:
        """Inputs as the model wants them, `[..., dx]`."""
        return _standard(raw, self.x_shift, self.x_scale)

    def y(self, raw: Tensor) -> Tensor:
        """Outputs as the model wants them, `[..., dy]`."""
        return _standard(raw, self.y_shift, self.y_scale)

    def law(self, law: Predictive) -> Predictive:
        """The model's law of outputs, in raw units."""
        if all(v == 0 for v in self.y_shift) and all(v == 1 for v in self.y_scale):
            return law  # laws without a density, of counts or classes, have no other units
        like = law.mean
        dtype = like.dtype if like.device.type == "mps" else torch.float64  # a large shift would drown the rest
        return Affine(law, *(torch.tensor(v, dtype=dtype, device=like.device) for v in (self.y_shift, self.y_scale)))


def _standard(raw: Tensor, shift: Sequence[float], scale: Sequence[float]) -> Tensor:
    """(raw - shift) / scale, before anything is rounded to the model's precision: raw inputs may be dates."""
    if raw.device.type != "mps":  # which has no float64
        raw = raw.double()
    return (raw - raw.new_tensor(shift)) / raw.new_tensor(scale)
