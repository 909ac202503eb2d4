"""Mixers of fixed length: with as many points as knots they are the published operators."""

import pytest
import torch
from torch.nn.functional import gelu, layer_norm, relu

from npexp.errors import ConfigError
from npexp.mixers.base import Site, Tokens, find_mixer, make_mixer, registered
from npexp.mixers.knots import KnotMixer
from npexp.ops.knots import from_knots_naive, to_knots_naive
from tests.contracts.checks import CLOSE

SITE = Site(dx=2, dz=16, num_heads=2, layer=0)
SIZES = torch.tensor([7, 4, 0])
NAMES = [name for name, cls in registered().items() if issubclass(cls, KnotMixer)]
SIX = {"synthesizer_factorised_dense": {"num_blocks": 3, "block_size": 2}}  # names of settings that make six knots


def context(n: int = 6, b: int = 3, ragged: bool = False) -> Tokens:
    g = torch.Generator().manual_seed(0)
    h, x = (torch.randn(b, n, d, generator=g, dtype=torch.float64) for d in (16, 2))
    sizes = SIZES if ragged else torch.full((b,), n)
    mask = torch.arange(n) < sizes[:, None] if ragged else None
    ranks = torch.arange(n).expand(b, n)
    return Tokens(h, x, mask, sizes, ranks, None, ranks)


def targets(ctx: Tokens, ranks: list[float]) -> Tokens:
    b = len(ctx.h)
    h = torch.randn(b, len(ranks), 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Tokens(h, torch.zeros_like(h[..., :2]), None, ctx.n, torch.tensor(ranks).expand(b, -1))


def six(name: str, **settings):
    torch.manual_seed(0)
    unit = make_mixer(name, SITE, SIX.get(name, {"num_knots": 6}) | settings).double()
    with torch.no_grad():
        for p in unit.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return unit


def mlp_mixer(unit, h):
    first, last = unit.network[0], unit.network[2]
    hidden = gelu(torch.einsum("sn,bnc->bsc", first.weight, h) + first.bias[:, None])
    return torch.einsum("ns,bsc->bnc", last.weight, hidden) + last.bias[:, None]


def gmlp(unit, h):
    """Spatial gating unit of Liu et al. 2021, figure 1."""
    z1, z2 = unit.to_rows(h), unit.to_knots(h)
    z2 = layer_norm(gelu(z2), z2.shape[-1:], unit.norm.weight, unit.norm.bias)
    gate = torch.einsum("nm,bmc->bnc", unit.along.weight, z2) + unit.along.bias[:, None]
    return unit.to_out(gelu(z1) * gate)


def linformer(unit, h):
    """Equation 7 of Wang et al. 2020: softmax(Q (E K)' / sqrt(dh)) F V."""
    a = unit.attention
    heads = []
    k, v = a.to_kv(h).chunk(2, -1)
    for i in (slice(0, 8), slice(8, 16)):
        scores = a.to_q(h)[..., i] @ (unit.e.T @ k[..., i]).mT / 8**0.5
        heads.append(scores.softmax(-1) @ (unit.f.T @ v[..., i]))
    return a.to_out(torch.cat(heads, -1))


def synthesizer(logits):
    """Table 1 of Tay et al. 2021: softmax(B) V per head, B from `logits(unit, h)`, [b, h, n, n]."""

    def direct(unit, h):
        b = logits(unit, h).softmax(-1)
        v = (h @ unit.to_v.weight.T).chunk(2, -1)
        return unit.to_out(torch.cat([b[:, i] @ v[i] for i in range(2)], -1))

    return direct


def dense_logits(unit, h):
    b = unit.network[2](relu(unit.network[0](h)))
    return torch.stack(b.chunk(2, -1), 1)


def factorised_dense_logits(unit, h):
    """H_A(A) * H_B(B): A repeated for every entry of B, which is tiled."""
    heads = []
    for part in unit.network[2](relu(unit.network[0](h))).chunk(2, -1):
        a, b = part[..., :3], part[..., 3:]
        heads.append(a.repeat_interleave(2, -1) * b.repeat(1, 1, 3))
    return torch.stack(heads, 1)


ORIGINALS = {
    "linformer": linformer,
    "mlp_mixer": mlp_mixer,
    "gmlp": gmlp,
    "synthesizer_dense": synthesizer(dense_logits),
    "synthesizer_random": synthesizer(lambda unit, h: unit.table.transpose(0, 1).expand(len(h), -1, -1, -1)),
    "synthesizer_factorised_random": synthesizer(
        lambda unit, h: torch.einsum("ihk,jhk->hij", unit.left, unit.right).expand(len(h), -1, -1, -1)
    ),
    "synthesizer_factorised_dense": synthesizer(factorised_dense_logits),
}


@pytest.mark.parametrize("name", NAMES)
def test_as_many_points_as_knots_is_the_original(name):
    unit, ctx = six(name), context()
    leaf = ctx.h.clone().requires_grad_()
    found = unit.read(ctx._replace(h=leaf), unit.summarise(ctx._replace(h=leaf))[0])
    expected = ORIGINALS[name](unit, leaf)
    torch.testing.assert_close(found, expected, **CLOSE)
    inputs = [leaf, *unit.parameters()]
    weights = torch.randn_like(found)
    for a, b in zip(*(torch.autograd.grad((t * weights).sum(), inputs) for t in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_linformer_without_mixing_is_dense():
    unit, dense, ctx = six("linformer", num_rows=6), make_mixer("dense", SITE).double(), context()
    dense.attention.load_state_dict(unit.attention.state_dict())
    unit.e.data.copy_(torch.eye(6))
    unit.f.data.copy_(torch.eye(6))
    for q in (ctx, targets(ctx, [-0.5, 2.5])):
        expected = dense.read(q, dense.summarise(ctx)[0])
        torch.testing.assert_close(unit.read(q, unit.summarise(ctx)[0]), expected, **CLOSE)


def test_linformer_of_any_length():
    """K' = (G/n) sum_j E(u_j) k_j, point by point, with gradients."""
    unit, ctx = six("linformer", num_rows=3), context(7, ragged=True)
    a, knots = unit.attention, torch.eye(6, dtype=torch.float64).expand(3, 6, 6)
    hats = from_knots_naive(knots, ctx.pos, ctx.n)
    k, v = a.to_kv(ctx.h).chunk(2, -1)
    expected = []
    for rows, table in ((k, unit.e), (v, unit.f)):
        total = torch.zeros(3, 3, 16, dtype=torch.float64)
        for i, n in enumerate(SIZES.tolist()):
            for j in range(n):
                total[i] = total[i] + 6 / n * torch.outer(hats[i, j] @ table, rows[i, j])
        expected.append(total)
    kv = unit.summarise(ctx)[0]
    for found, exact in zip(kv[:2], expected, strict=True):
        found = found.transpose(1, 2).flatten(2)
        torch.testing.assert_close(found, exact, **CLOSE)
        weights = torch.randn_like(found)
        inputs = [a.to_kv.weight, unit.e, unit.f]
        grads = [
            torch.autograd.grad((t * weights).sum(), inputs, retain_graph=True, allow_unused=True)
            for t in (found, exact)
        ]
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"linformer", "gmlp"}))
def test_any_length_works_on_the_averages(name):
    """Of 7, 4 and 0 points, the summary is that of their averages on the knots, as if these were the points."""
    unit, ctx = six(name), context(7, ragged=True)
    knots = to_knots_naive(ctx.h, ctx.pos, ctx.n, ctx.mask, 6)
    expected = unit.summarise(context()._replace(h=knots))[0]
    torch.testing.assert_close(unit.summarise(ctx)[0].rows, expected.rows, **CLOSE)


def test_gmlp_averages_what_it_gates_with():
    unit, ctx = six("gmlp"), context(7, ragged=True)
    features = unit.norm(gelu(unit.to_knots(ctx.h)))
    knots = to_knots_naive(features, ctx.pos, ctx.n, ctx.mask, 6)
    torch.testing.assert_close(unit.summarise(ctx)[0].rows, unit.along(knots.mT).mT, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_a_target_reads_between_knots(name):
    """Twice as many points as knots: a target halfway between two reads as a point on the knot would."""
    unit, ctx = six(name), context(12)
    state = unit.summarise(ctx)[0]
    between = targets(ctx, [2 * g + 0.5 for g in range(6)])
    on_knots = between._replace(pos=torch.arange(6).expand(3, 6), n=torch.full((3,), 6))
    torch.testing.assert_close(unit.read(between, state), unit.read(on_knots, state), **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_matters(name):
    """Which the contract, whose models sort, cannot see."""
    unit, ctx = six(name), context(9)
    q = targets(ctx, [3.5])
    other = unit.summarise(ctx._replace(h=ctx.h.flip(1)))[0]
    assert (unit.read(q, unit.summarise(ctx)[0]) - unit.read(q, other)).abs().max() > 1e-3


def test_gmlp_is_a_whole_layer_that_starts_with_itself():
    unit = make_mixer("gmlp", SITE)
    assert unit.feedforward(16, 32, "gelu") is None
    gate = unit.summarise(context()._replace(h=torch.randn(3, 6, 16)))[0].rows
    torch.testing.assert_close(gate, torch.ones_like(gate), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("mlp_mixer", "num_knots"),
        ("mlp_mixer", "dim_hidden"),
        ("gmlp", "dim_hidden"),
        ("linformer", "num_rows"),
        ("synthesizer_factorised_random", "rank"),
        ("synthesizer_factorised_dense", "num_blocks"),
        ("synthesizer_factorised_dense", "block_size"),
    ],
)
def test_impossible_sizes_are_refused(name, setting):
    assert find_mixer(name)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        make_mixer(name, SITE, {setting: 0})
