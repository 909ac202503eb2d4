"""Noise beyond one normal number per output, by the rules of `standard_normal`."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.special import ndtr

from npexp.likelihoods.base import standard_normal


def uniform(n: int, like: Float[Tensor, "*s b nt dy"], seed: int | None) -> Float[Tensor, "n *s b nt dy"]:
    """Levels strictly between 0 and 1, `[n, *s, b, nt, dy]`, so that `icdf` makes draws of any law from them."""
    eps = torch.finfo(like.dtype).eps
    return ndtr(standard_normal(n, like, seed)).clamp(eps, 1 - eps)


def stream(seed: int | None, index: int) -> int | None:
    """A seed of an independent stream of noise, for laws that need several; None stays None."""
    return None if seed is None else int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
