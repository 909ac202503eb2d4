"""Operators that ONNX or onnxruntime's CPU kernels lack, written in terms of those that they have."""

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import onnxscript
import torch
from onnxscript import opset18 as op

from npexp.errors import UnsupportedError

DOMAIN = "npexp"
BLOCK = 16  # rows that are eliminated one by one; what remains of a factorisation is matrix products
CHOLESKY, TRIANGULAR = "Cholesky", "TriangularSolve"


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """Spelt out: older runtimes have no kernel for float64, in which pools and ridge systems are kept."""
    scaled = op.Mul(x, op.CastLike(beta, x))
    small = op.Log(op.Add(op.Exp(op.Neg(op.Abs(scaled))), op.CastLike(1.0, x)))
    return op.Div(op.Add(op.Relu(scaled), small), op.CastLike(beta, x))


def logsumexp(x: Any, dim: Sequence[int], keepdim: bool = False) -> Any:
    """Spelt out: ReduceLogSumExp loses small terms that come after -inf, a masked point."""
    axes = op.Constant(value_ints=list(dim))
    top = op.ReduceMax(x, axes, keepdims=1)
    top = op.Where(op.IsInf(top), op.CastLike(0.0, top), top)
    total = op.Add(top, op.Log(op.ReduceSum(op.Exp(op.Sub(x, top)), axes, keepdims=1)))
    return total if keepdim else op.Squeeze(total, axes)


def cholesky_ex(a: Any, upper: bool = False, check_errors: bool = False) -> tuple[Any, Any]:
    """A call of `cholesky`. Where there is no factor it holds NaN, and nobody is told."""
    if upper:
        raise UnsupportedError("upper factors are not translated")
    return _call(CHOLESKY, a), op.Constant(value_int=0)


def solve_triangular(a: Any, b: Any, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    """A call of `triangular`."""
    if upper or not left or unitriangular:
        raise UnsupportedError("of triangular systems only A X = B with a lower A are translated")
    return _call(TRIANGULAR, a, b)


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.softplus.default: softplus,
    torch.ops.aten.logsumexp.default: logsumexp,
    torch.ops.aten.linalg_cholesky_ex.default: cholesky_ex,
    torch.ops.aten.linalg_solve_triangular.default: solve_triangular,
}


def _call(name: str, *inputs: Any) -> Any:
    """A node of our own domain, named after its size and rank; the optimiser never sees its many insides."""
    *outer, m, _ = inputs[0].shape
    own = onnx.defs.OpSchema
    schema = own(
        f"{name}_{m}_{len(outer) + 2}",
        DOMAIN,
        1,
        inputs=[own.FormalParameter(letter, "T") for letter in "AB"[: len(inputs)]],
        outputs=[own.FormalParameter("X", "T")],
        type_constraints=[("T", ["tensor(float)", "tensor(double)"], "")],
    )
    return onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, 1), schema.name, schema)(*inputs)


def define(model: onnx.ModelProto) -> None:
    """Adds the bodies of our own operators that the model calls; runtimes inline them."""
    for name in sorted({node.op_type for node in model.graph.node if node.domain == DOMAIN}):
        kind, m, rank = name.split("_")
        body = {CHOLESKY: cholesky, TRIANGULAR: triangular}[kind](int(m), int(rank))
        inputs = ["A"] if kind == CHOLESKY else ["A", "B"]
        opsets = [entry for entry in model.opset_import if entry.domain == ""]
        model.functions.append(onnx.helper.make_function(DOMAIN, name, inputs, ["X"], body, opsets))


class Body:
    """Nodes of a function, in order; every call adds one and gives its output's name."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[int, str] = {}

    def __call__(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        output = output or f"v{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, value: int) -> str:
        """One integer in a vector."""
        if value not in self.constants:
            self.constants[value] = self("Constant", value_ints=[value])
        return self.constants[value]

    def cut(self, x: str, axis: int, start: int, stop: int | None = None) -> str:
        """x from start to stop, by default one entry, along an axis."""
        stop = start + 1 if stop is None else stop
        return self("Slice", x, *(self.constant(i) for i in (start, stop, axis)))

    def stack(self, rows: Sequence[str]) -> str:
        """Rows one below the other."""
        return self("Concat", *rows, axis=-2)


def cholesky(m: int, rank: int) -> list[onnx.NodeProto]:
    """The lower factor X of A, `[..., m, m]`: some 6 m nodes, right-looking by blocks (Golub & Van Loan, 4.2)."""
    f, a, factor = Body(), "A", []
    swap = [*range(rank - 2), rank - 1, rank - 2]
    for start in range(0, m, BLOCK):
        stop = min(start + BLOCK, m)
        left, rows, pivots = f.cut(a, -2, start, stop), [], []  # of the upper factor, rows divided by pivots
        for i in range(start, stop):
            row = f.cut(left, -2, i - start)
            pivots.append(f.cut(row, -1, i))
            rows.append(f("Div", row, pivots[-1]))
            if i + 1 < stop:
                left = f("Sub", left, f("Mul", f.cut(left, -1, i), rows[-1]))
        factor.append(f("Mul", f("Sqrt", f.stack(pivots)), f.stack(rows)))
        if stop < m:
            a = f("Sub", a, f("MatMul", f("Transpose", factor[-1], perm=swap), factor[-1]))
    # below the diagonal of the upper factor is what rounding left of zero
    f("Transpose", f("Trilu", f.stack(factor), upper=1), perm=swap, output="X")
    return f.nodes


def triangular(m: int, rank: int) -> list[onnx.NodeProto]:
    """X of A X = B with a lower triangular A, `[..., m, m]`: some 4 m nodes, forward substitution by blocks."""
    f, solved = Body(), []
    below = f("Trilu", "A", f.constant(-1), upper=0)
    pivots = f("ReduceSum", f("Sub", f("Trilu", "A", upper=0), below), f.constant(-1), keepdims=1)
    below, b = f("Div", below, pivots), f("Div", "B", pivots)
    for start in range(0, m, BLOCK):
        stop = min(start + BLOCK, m)
        rows, x = f.cut(below, -2, start, stop), f.cut(b, -2, start, stop)
        if solved:
            x = f("Sub", x, f("MatMul", f.cut(rows, -1, 0, start), f.stack(solved)))
        for i in range(start, stop - 1):
            x = f("Sub", x, f("Mul", f.cut(rows, -1, i), f.cut(x, -2, i - start)))
        solved.append(x)
    f("Concat", *solved, axis=-2, output="X")
    return f.nodes
