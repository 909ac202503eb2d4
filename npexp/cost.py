"""What a model costs where it is used: bytes of state, and floating-point operations per point and per target."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from npexp.models.base import NeuralProcess, State
from npexp.ops.tree import nbytes

POINTS = 1000  # in the context of models whose state grows
MEASURED = (8, 16, 24)  # what is run in their place, as numbers of operations are polynomials of the second degree
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

    A prediction is means and standard deviations; where targets are decoded one after the other, those of each alone,
    and where they see each other, of nine. Where the state grows with the context it has seen 1,000 points, and an
    update may mean to encode them again.
    """
    model = model.eval()
    constant = model.traits["constant_state"]
    with torch.no_grad():
        sizes = MEASURED[:1] if constant else MEASURED
        states, updates = zip(*(_update(model, n) for n in sizes), strict=True)
        few = sizes[:2]  # predictions are linear in the context
        one, more = ([_predict(model, s, nt) for s in states[:2]] for nt in (1, 1 + TARGETS))
    first, last = extrapolate(few, one, POINTS), extrapolate(few, more, POINTS)
    target = round((last - first) / TARGETS)
    held = nbytes(states[0]) if constant else None
    return Cost(held, extrapolate(sizes, updates, POINTS), max(first - target, 0), target)


def _update(model: NeuralProcess, n: int) -> tuple[State, int]:
    """A state that has seen n points, and the operations that take in the last one."""
    x, y = torch.zeros(1, n, model.dx), torch.zeros(1, n, model.dy)
    with Operations() as counted:
        state = model.encode(x, y)
    if model.traits["update"] == "exact":
        with Operations() as counted:
            model.update(state, x[:, :1], y[:, :1])
    return state, counted.total


def _predict(model: NeuralProcess, state: State, nt: int) -> int:
    """Operations of means and standard deviations at nt targets."""
    with Operations() as counted:
        law = model.predict(state, torch.zeros(1, nt, model.dx))
        _ = law.mean, law.stddev
    return counted.total


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
        if func._can_decompose():  # in inference mode linear maps and attention arrive whole
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        kind, rule = _rule(func)
        if kind == "matrices":
            self.matrices += rule(*args, **kwargs, out_val=out)
        elif kind == "result" and out.is_floating_point():
            self.elements += out.numel()
        elif kind == "argument" and args[0].is_floating_point():
            self.elements += rule * args[0].numel()
        return out


@cache
def _rule(func: Any) -> tuple[str, Any]:
    """What is counted of a function, and how."""
    name = func.overloadpacket
    if name in MATRICES:
        return "matrices", MATRICES[name]
    if name in PASSES or torch.Tag.reduction in func.tags:
        return "argument", PASSES.get(name, 1)
    return ("result" if torch.Tag.pointwise in func.tags and name not in COPIES else "free"), None


def _product(*args: Any, out_val: Tensor, **options: Any) -> int:
    return 2 * out_val.numel() * args[-2].shape[-1]


def _cholesky(a: Tensor, *rest: Any, out_val: Any, **options: Any) -> int:
    return a.numel() * a.shape[-1] // 3


def _triangular(a: Tensor, b: Tensor, *rest: Any, out_val: Any, **options: Any) -> int:
    return b.numel() * a.shape[-1]


def _distances(x: Tensor, z: Tensor, *rest: Any, out_val: Any, **options: Any) -> int:
    return 3 * x.numel() * z.shape[-2]


def _attention(q: Tensor, k: Tensor, v: Tensor, *rest: Any, out_val: Any, **options: Any) -> int:
    return sdpa_flop(q.shape, k.shape, v.shape)


def _attention_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any, out_val: Any, **options: Any) -> int:
    return sdpa_backward_flop(grad.shape, q.shape, k.shape, v.shape)


aten = torch.ops.aten
MATRICES: dict[Any, Callable[..., int]] = {
    **flop_registry,
    **dict.fromkeys(
        (aten.mm, aten.addmm, aten.bmm, aten.baddbmm), _product
    ),  # PyTorch's formulas, several times faster
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten._cdist_forward: _distances,
    aten.linalg_cholesky_ex: _cholesky,
    aten.linalg_solve_triangular: _triangular,
}
PASSES = {aten._softmax: 3, aten._log_softmax: 3, aten.native_layer_norm: 5}
COPIES = {aten.clone, aten.where, aten.masked_fill}
