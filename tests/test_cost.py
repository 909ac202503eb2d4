"""Costs against counts by hand."""

import pytest
import torch
from torch.nn.functional import conv1d, scaled_dot_product_attention

import npexp
from npexp import cost
from npexp.cost import TARGETS, Operations, extrapolate, measure

z = torch.zeros


@pytest.mark.parametrize(
    ("run", "matrices", "elements"),
    [
        (lambda: z(3, 5) @ z(5, 7), 2 * 3 * 5 * 7, 0),
        (lambda: z(2, 3, 5) @ z(2, 5, 7), 2 * 2 * 3 * 5 * 7, 0),
        (lambda: torch.addmm(z(7), z(3, 5), z(5, 7), beta=0.5), 2 * 3 * 5 * 7, 0),
        (lambda: torch.baddbmm(z(2, 3, 7), z(2, 3, 5), z(2, 5, 7)), 2 * 2 * 3 * 5 * 7, 0),
        (lambda: torch.einsum("ab,cb->ac", z(3, 5), z(7, 5)), 2 * 3 * 5 * 7, 0),
        (lambda: conv1d(z(1, 2, 9), z(4, 2, 3)), 2 * 4 * 7 * (2 * 3), 0),
        (lambda: scaled_dot_product_attention(z(2, 4, 3, 8), z(2, 4, 5, 8), z(2, 4, 5, 8)), 2 * 8 * 3 * 5 * (8 + 8), 0),
        (lambda: torch.linalg.cholesky_ex(torch.eye(6).expand(2, 6, 6)), 2 * 6**3 // 3, 0),
        (lambda: torch.linalg.solve_triangular(torch.eye(6), z(2, 6, 5), upper=False), 2 * 6**2 * 5, 0),
        (lambda: torch.cdist(z(3, 2), z(5, 2), compute_mode="donot_use_mm_for_euclid_dist"), 3 * 3 * 5 * 2, 0),
        (lambda: (z(3, 5) * z(5)).exp().sum(-1), 0, 15 + 15 + 15),
        (lambda: z(3, 5).softmax(-1), 0, 3 * 15),
        (lambda: torch.layer_norm(z(3, 5), (5,)), 0, 5 * 15),
        (lambda: z(3, 5).mT.contiguous().masked_fill(torch.ones(3, dtype=torch.bool), 1.0), 0, 0),
        (lambda: torch.arange(5) + 1, 0, 0),
    ],
)
def test_operations(run, matrices, elements):
    with torch.no_grad(), Operations() as counted:
        run()
    assert (counted.matrices, counted.elements, counted.total) == (matrices, elements, matrices + elements)


def test_inference_mode_counts_the_same():
    def run():
        h = torch.nn.functional.linear(z(3, 5), z(7, 5), z(7)).view(1, 1, 3, 7)
        return scaled_dot_product_attention(h, h, h)

    counts = []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), Operations() as counted:
            run()
        counts.append((counted.matrices, counted.elements))
    assert counts[0] == counts[1] == (2 * 3 * 5 * 7 + 2 * 3 * 3 * (7 + 7), 0)


def test_gradients_of_attention():
    """Forward two products; backward their four gradients, and the scores once more."""
    q, k, v = (torch.ones(2, 4, n, 8, requires_grad=True) for n in (3, 5, 5))
    with Operations() as counted:
        scaled_dot_product_attention(q, k, v).backward(torch.ones(2, 4, 3, 8))
    assert counted.matrices == (2 + 5) * 2 * (2 * 4) * 3 * 5 * 8


def test_cnp():
    found = measure(npexp.build("cnp", dx=1, dy=1, dz=4))
    layers = 2 * (2 * 4 + 3 * 4 * 4) + 3 * 4  # four of them, and the ReLUs between
    assert found.flops_update == layers + 4 + 4  # the sum over one point, added to the old one
    assert found.flops_predict == 4 + 2 * (2 * 4 * 4) + 4 + (2 * 4 * 4 + 4)  # the mean, what it goes through, its bias
    assert found.flops_target == 2 * (1 * 4 + 4 * 4 + 4 * 2) + 4 + 2 * 4 + 3  # the mean, ReLUs; softplus, times, plus
    assert found.state_bytes == 4 * 4 + 8 + 8  # sums, their number, and the number of points


def test_rmnp():
    m, k, dz, hidden, dim = 6, 2, 4, 5, 3
    sizes = {"num_features": m, "num_priors": k, "num_refined": 0, "dz": dz, "dim_head": hidden, "dim_feedforward": dim}
    model = npexp.build("rmnp", dx=2, dy=2, num_layers=1, **sizes)
    found, floats = measure(model), m * (m + 1) // 2 + 2 * m + 2 + 2 + 1
    waves = 2 * (3 * 2) + 3 + 3  # angles of three frequencies, and the sine of one that is not used
    sums = 2 * m * m + 2 * m * 2 + 2 + (2 + 2)
    domain = 2 + 2 + 2  # shift, scale, and a look at how far it lies
    assert found.flops_update == domain + waves + sums + floats  # a point's sums, added to the old ones
    assert found.state_bytes == 8 * floats + 8

    state, counts = model.encode(z(1, 3, 2), z(1, 3, 2)), []
    for nt in (1, 2):
        with torch.no_grad(), Operations() as counted:
            model.predict(state, z(1, nt, 2))
        counts.append(counted)
    means, rows = 2 * m * k * 2, k * 2 * m * m
    tokens, place = 2 * (2 * 2 * (k + 1)) * dz, 2 * ((2 + m - 1) * dz + dz * dz)
    layer, head = 2 * (dz * 2 * dim + dim * dz), 2 * (dz * hidden + hidden * 2 * (3 + k))
    assert counts[1].matrices - counts[0].matrices == means + rows + tokens + place + layer + head
    once = k * (m**3 // 3 + m**3) + k * 2 * (2 * m * m * 2)  # factors and their inverses, and what solves with them
    facts = 1 + 2 * 2 + 1 + k * (2 + 2)
    networks = 2 * facts * (hidden + hidden) + 2 * hidden * (k + dz)  # gates and code
    assert 2 * counts[0].matrices - counts[1].matrices == once + networks
    assert found.flops_target > counts[1].matrices - counts[0].matrices


@pytest.mark.parametrize("name", ["tnp", "lbanp", "inctnp", "canp"])
def test_growing_states_are_measured_small(name, monkeypatch):
    """What is extrapolated is what is counted."""
    monkeypatch.setattr(cost, "POINTS", 70)
    model = npexp.build(name, dx=1, dy=1, dz=8).eval()
    found = measure(model)
    with torch.no_grad(), Operations() as update:
        state = model.encode(z(1, 70, 1), z(1, 70, 1))
    if name == "inctnp":
        with torch.no_grad(), Operations() as update:
            model.update(state, z(1, 1, 1), z(1, 1, 1))
    with torch.no_grad(), Operations() as predict:
        law = model.predict(state, z(1, TARGETS, 1))
        _ = law.mean, law.stddev
    assert found.state_bytes is None
    assert (found.flops_update, found.flops_predict + TARGETS * found.flops_target) == (update.total, predict.total)


def test_extrapolate():
    assert extrapolate((1, 2, 4), [3 * x * x - 2 * x + 5 for x in (1, 2, 4)], 1000) == 2_998_005
    assert extrapolate((7,), (9,), 1000) == 9
