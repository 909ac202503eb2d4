"""Operators that ONNX lacks, run by onnxruntime, against LAPACK."""

import numpy as np
import onnx
import pytest
import scipy.linalg
from onnxruntime import InferenceSession

from npexp import onnx_operators
from npexp.errors import UnsupportedError
from npexp.onnx_operators import DOMAIN, cholesky_ex, define, solve_triangular


def run(kind: str, *inputs: np.ndarray) -> np.ndarray:
    """The output of a model of one node, a call of one of ours."""
    names = ["A", "B"][: len(inputs)]
    node = onnx.helper.make_node(f"{kind}_{inputs[0].shape[-1]}_{inputs[0].ndim}", names, ["X"], domain=DOMAIN)
    kinds = [onnx.helper.np_dtype_to_tensor_dtype(v.dtype) for v in inputs]
    ports = [
        onnx.helper.make_tensor_value_info(*port) for port in zip(names, kinds, map(np.shape, inputs), strict=True)
    ]
    out = onnx.helper.make_tensor_value_info("X", kinds[0], [None] * inputs[0].ndim)
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, 1)]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", ports, [out]), opset_imports=opsets, ir_version=10
    )
    define(model)
    onnx.checker.check_model(model)
    return InferenceSession(model.SerializeToString()).run(None, dict(zip(names, inputs, strict=True)))[0]


@pytest.mark.parametrize(("m", "outer"), [(1, (2,)), (5, ()), (16, (2, 3)), (17, (1, 2)), (40, (3,))])
def test_cholesky_and_triangular_systems(m, outer):
    rng = np.random.default_rng(m)
    rows = rng.normal(size=(*outer, m, 2)) * np.exp(rng.uniform(0, 5, size=(m, 1)))
    a = np.eye(m) + rows @ rows.swapaxes(-1, -2)  # two huge eigenvalues, the others 1
    factor = run("Cholesky", a)
    np.testing.assert_array_equal(np.triu(factor, 1), 0)
    expected = np.linalg.cholesky(a)
    scale = np.sqrt(np.diagonal(a, axis1=-2, axis2=-1))[..., None]  # what a row's rounding is relative to
    np.testing.assert_allclose(factor / scale, expected / scale, rtol=0, atol=1e-9)
    np.testing.assert_allclose(factor @ factor.swapaxes(-1, -2), a, rtol=1e-12, atol=1e-12 * a.max())

    b = rng.normal(size=(*outer, m, 3))
    found = run("TriangularSolve", expected, b)
    solved = [
        scipy.linalg.solve_triangular(*pair, lower=True)
        for pair in zip(expected.reshape(-1, m, m), b.reshape(-1, m, 3), strict=True)
    ]
    np.testing.assert_allclose(found, np.reshape(solved, b.shape), rtol=1e-8, atol=1e-10)


def test_float32_and_what_has_no_factor():
    a = np.array([[4.0, 2.0], [2.0, 10.0]], np.float32)
    np.testing.assert_allclose(run("Cholesky", a), [[2, 0], [1, 3]], rtol=1e-6)
    assert np.isnan(run("Cholesky", -a)).any()


def test_other_kinds_are_refused():
    a = np.eye(2)
    for call in (
        lambda: cholesky_ex(a, upper=True),
        lambda: solve_triangular(a, a, upper=True),
        lambda: solve_triangular(a, a, upper=False, left=False),
        lambda: solve_triangular(a, a, upper=False, unitriangular=True),
    ):
        with pytest.raises(UnsupportedError):
            call()
    assert onnx_operators.BLOCK == 16  # which the sizes above are about
