"""How precisely running sums are kept."""

import torch
from torch import Tensor


def accumulate(part: Tensor) -> Tensor:
    """A part of a running sum in the precision of the whole.

    That is float64, so that thousands of insertions and removals leave no trace. Where gradients are taken sums are not
    running, and some devices (mps) have no float64: there it is float32 or better.
    """
    if torch.is_grad_enabled() or part.device.type == "mps":
        return part.to(torch.promote_types(part.dtype, torch.float32))
    return part.double()
