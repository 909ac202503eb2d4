"""How many bytes a model remembers of a task, measured by encoding; `latency.py` and `plot.py` ask."""

import torch
from alpaca import ALPaCA
from opponents import ALPACA, GPS, WORDS

import npexp

LONGEST = 46  # context points in training


def state_bytes(node: object) -> int:
    """Bytes of the tensors in a nested tuple."""
    if isinstance(node, torch.Tensor):
        return node.nbytes
    return sum(map(state_bytes, node)) if isinstance(node, tuple) else 0


def model(name: str) -> npexp.NeuralProcess:
    """An untrained model of a row of opponents.csv or learning.csv."""
    if name in ALPACA:
        return ALPaCA(1, 1, **ALPACA[name])
    # features and heads, after the comma, are no part of the state
    return npexp.build(name.partition(",")[0] if name in WORDS else name, dx=1, dy=1)


@torch.inference_mode()
def measured(name: str) -> tuple[int, bool]:
    """Bytes of the state of 46 points, and whether twice as many need no more."""
    if name in GPS:
        return LONGEST * 2 * 4, False  # the points themselves
    x, made = torch.linspace(-2, 2, 2 * LONGEST)[None, :, None], model(name)
    half, whole = (state_bytes(made.encode(v, v.sin())) for v in (x[:, ::2], x))
    return half, half == whole
