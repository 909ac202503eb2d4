"""Special functions that PyTorch lacks."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def on_cpu(function: Callable[..., np.ndarray], *arguments: Tensor) -> Tensor:
    """A function of `scipy.special`, elementwise on tensors that broadcast.

    Computed on the CPU in float64 and returned where the arguments live. It has values only, no gradient: it is meant
    for distribution functions and quantiles, which nobody trains on.
    """
    value = function(*(a.detach().cpu().double().numpy() for a in arguments))
    dtype = arguments[0].dtype
    for a in arguments[1:]:
        dtype = torch.promote_types(dtype, a.dtype)
    return torch.as_tensor(value).to(dtype).to(arguments[0].device)  # not every device has float64
