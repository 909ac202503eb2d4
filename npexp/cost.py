"""What a model costs where it is used: bytes of state, and floating-point operations per point and per target."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop

from npexp.models.base import NeuralProcess
from npexp.ops.tree import nbytes

POINTS = 1000  # in the context of models whose state grows
MEASURED = (16, 32, 48)  # what is run instead: numbers of operations are polynomials of at most this degree, plus one
TARGETS = 8  # over which the cost of a further one is averaged


class Cost(NamedTuple):
    """Of one task, without gradients.

    Args:
        state_bytes: of the state; None where it grows with the context.
        flops_update: operations that take in one more point.
        flops_predict: operations of a prediction, apart from its targets.
        flops_target: operations for each target.
    """

    state_bytes: int | None
    flops_update: int
    flops_predict: int
    flops_target: int


def measure(model: NeuralProcess) -> Cost:
    """Costs of a model, see `Operations`: some ten milliseconds.

    A prediction is means and standard deviations; where targets are decoded one after the other, those of each alone.
    Where the state grows with the context it has seen 1,000 points, and an update may mean to encode them again.
    """
    model = model.eval()
    constant = model.traits["constant_state"]
    sizes = MEASURED[:1] if constant else MEASURED
    with torch.no_grad():
        runs = [_run(model, n) for n in sizes]
        held = nbytes(model.encode(*_zeros(model, sizes[0]))) if constant else None
    update, one, more = (extrapolate(sizes, counts, POINTS) for counts in zip(*runs, strict=True))
    target = round((more - one) / TARGETS)
    return Cost(held, update, one - target, target)


def _run(model: NeuralProcess, n: int) -> tuple[int, int, int]:
    """Operations of an update with one point, and of the predictions of one and of 1 + TARGETS targets, after n."""
    x, y = _zeros(model, n)
    with Operations() as encoding:
        state = model.encode(x, y)
    if model.traits["update"] == "exact":
        with Operations() as encoding:
            model.update(state, x[:, :1], y[:, :1])

    def predicted(nt: int) -> int:
        with Operations() as predicting:
            law = model.predict(state, torch.zeros(1, nt, model.dx))
            _ = law.mean, law.stddev
        return predicting.total

    return encoding.total, predicted(1), predicted(1 + TARGETS)


def _zeros(model: NeuralProcess, n: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(1, n, model.dx), torch.zeros(1, n, model.dy)


def extrapolate(xs: Sequence[int], ys: Sequence[int], x: int) -> int:
    """The value at x of the polynomial through these points, exactly (Lagrange)."""
    weights = [prod(Fraction(x - b, a - b) for b in xs if b != a) for a in xs]
    return round(sum(w * y for w, y in zip(weights, ys, strict=True)))


class Operations(TorchDispatchMode):
    """Counts floating-point operations of what runs inside it.

    Attributes:
        matrices: of products, convolutions, attention, factorisations and triangular systems; a multiplication and
            an addition are two.
        elements: one for every number that an elementwise function gives, exp and the like too, or that a reduction
            takes; three passes for a softmax, five for a layer norm. Copying, sorting and indexing are free.
    """

    def __init__(self):
        super().__init__()
        self.matrices, self.elements = 0, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip it PyTorch would import it, which takes longer than counting every model

    @property
    def total(self) -> int:
        """All of them."""
        return self.matrices + self.elements

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the function and counts it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if (formula := MATRICES.get(func.overloadpacket)) is not None:
            self.matrices += formula(*args, **kwargs, out_val=out)
        elif func.overloadpacket in PASSES:
            self.elements += PASSES[func.overloadpacket] * args[0].numel()
        elif torch.Tag.pointwise in func.tags and func.overloadpacket not in COPIES:
            self.elements += out.numel() if out.is_floating_point() else 0
        elif torch.Tag.reduction in func.tags:
            self.elements += args[0].numel() if args[0].is_floating_point() else 0
        return out


def _cholesky(a: Tensor, *rest: Any, out_val: Any, **options: Any) -> int:
    return a.numel() * a.shape[-1] // 3


def _triangular(a: Tensor, b: Tensor, *rest: Any, out_val: Any, **options: Any) -> int:
    return b.numel() * a.shape[-1]


def _attention(q: Tensor, k: Tensor, v: Tensor, *rest: Any, out_val: Any, **options: Any) -> int:
    return sdpa_flop(q.shape, k.shape, v.shape)


aten = torch.ops.aten
MATRICES: dict[Any, Callable[..., int]] = flop_registry | {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten.linalg_cholesky_ex: _cholesky,
    aten.linalg_solve_triangular: _triangular,
}
PASSES = {aten._softmax: 3, aten._log_softmax: 3, aten.native_layer_norm: 5}
COPIES = {aten.clone, aten.where, aten.masked_fill}
