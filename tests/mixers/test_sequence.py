"""Mixers along the ranks against sums over pairs."""

import pytest
import torch

from npexp.errors import ConfigError, UnknownNameError
from npexp.mixers.base import Site, Tokens, make_mixer
from tests.contracts.checks import CLOSE

SIZES = [7, 4, 1, 0]


def context(dx: int = 1) -> Tokens:
    """Ragged tasks in order, with garbage in the padding."""
    g = torch.Generator().manual_seed(0)
    h, x = (torch.randn(4, 7, d, generator=g, dtype=torch.float64) for d in (16, dx))
    x = x.sort(1).values
    mask = torch.arange(7) < torch.tensor(SIZES)[:, None]
    h, x = (torch.where(mask[..., None], t, torch.full_like(t, 1e3)) for t in (h, x))
    ranks = torch.arange(7).expand(4, 7)
    return Tokens(h, x, mask, torch.tensor(SIZES), ranks, None, ranks)


def targets(ctx: Tokens) -> Tokens:
    """One in front of all points, one behind, and others."""
    x = torch.tensor([-9.0, -0.3, 0.0, 0.4, 9.0], dtype=torch.float64).expand(4, 5)[..., None]
    rank = (ctx.x[:, None, :, 0] <= x).sum(-1) - 0.5
    h = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Tokens(h, x.expand(4, 5, ctx.x.shape[-1]), None, ctx.n, rank)


def unit(name: str, dx: int = 1, **settings):
    torch.manual_seed(0)
    mixer = make_mixer(name, Site(dx, 16, 2, 0), settings).double()
    with torch.no_grad():
        for p in mixer.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return mixer


def compare(mixer, ctx: Tokens, direct) -> None:
    """Values and gradients of context and targets against `direct(i, h, x, ranks, xq)`, task by task."""
    for q in (ctx, targets(ctx)):
        leaf = ctx.h.clone().requires_grad_()
        found = mixer.read(q, mixer.summarise(ctx._replace(h=leaf))[0])
        kept, expected = [], []
        for i, n in enumerate(SIZES):
            rows = slice(0, n if q is ctx else None)
            kept.append(found[i, rows])
            expected.append(direct(leaf[i, :n], ctx.x[i, :n], q.pos[i, rows], q.x[i, rows]))
        found, exact = torch.cat(kept), torch.cat(expected)
        torch.testing.assert_close(found, exact, **CLOSE)
        inputs, weights = [leaf, *mixer.parameters()], torch.randn_like(found)
        grads = (torch.autograd.grad((t * weights).sum(), inputs) for t in (found, exact))
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("norm", ["ortho", "backward"])
def test_fnet(norm):
    """Points read `fft2` of their own task, targets the same sum at their half frequency."""
    mixer, ctx = unit("fnet", norm=norm), context()

    def direct(h, x, ranks, xq):
        n, d = h.shape
        frequency = torch.outer(ranks.double(), torch.arange(n).double()) / max(n, 1)
        wave = torch.exp(-2j * torch.pi * frequency)
        out = (wave @ torch.fft.fft(h) if n else torch.zeros(len(ranks), d) * h.sum()).real
        if len(ranks) and n and ranks.dtype == torch.long:
            torch.testing.assert_close(out / (n * d) ** 0.5, torch.fft.fft2(h, norm="ortho").real, **CLOSE)
        return out / (max(n, 1) * d) ** (0.5 if norm == "ortho" else 0)

    compare(mixer, ctx, direct)


@pytest.mark.parametrize("dx", [1, 3])
def test_ssm_is_a_sum_over_pairs(dx):
    """Kernel exp(-lambda d), d along the path through the points: |x_q - x_j| for dx = 1."""
    mixer, ctx = unit("ssm", dx, num_states=6), context(dx)

    def direct(h, x, ranks, xq):
        rate = torch.complex(mixer.log_rate.exp(), mixer.frequency)
        b, out = h @ mixer.to_states.weight.T, []
        for r, place in zip(ranks.tolist(), xq, strict=True):
            sides = [torch.zeros(6, dtype=torch.complex128), torch.zeros(6, dtype=torch.complex128)]
            for j in range(len(h)):
                left = j <= r
                if dx == 1:
                    distance = (place - x[j]).abs().sum()
                else:  # from the row to its neighbour on that side, and on from point to point
                    step = int(r // 1) if left else int(r // 1) + 1
                    distance = (place - x[step]).norm()
                    low, high = min(step, j), max(step, j)
                    distance = distance + sum((x[i + 1] - x[i]).norm() for i in range(low, high))
                side = 0 if left else 1
                sides[side] = sides[side] + (-rate * distance).exp() * b[j]
            out.append(mixer.to_out(mixer.norm(torch.cat([t for s in sides for t in (s.real, s.imag)]))))
        return torch.stack(out) if out else h.new_zeros(0, 16)

    compare(mixer, ctx, direct)


def test_ssm_does_not_see_the_origin_in_one_dimension():
    mixer, ctx = unit("ssm"), context()
    q = targets(ctx)
    moved = mixer.read(q._replace(x=q.x + 3), mixer.summarise(ctx._replace(x=ctx.x + 3))[0])
    torch.testing.assert_close(moved, mixer.read(q, mixer.summarise(ctx)[0]), **CLOSE)


def test_ssm_target_at_a_point_reads_what_the_point_reads():
    mixer, ctx = unit("ssm"), context()
    state = mixer.summarise(ctx)[0]
    at_points = Tokens(ctx.h[:1], ctx.x[:1], None, ctx.n[:1], ctx.pos[:1] + 0.5)
    one = type(state)(*(t[:1] for t in state))
    torch.testing.assert_close(mixer.read(at_points, one), mixer.read(ctx, state)[:1], **CLOSE)


@pytest.mark.parametrize("half_width", [0, 2, 8])
def test_conv(half_width):
    """Taps at half offsets are means of their neighbours, and beyond the last there are none."""
    mixer, ctx = unit("conv", half_width=half_width), context()

    def direct(h, x, ranks, xq):
        v, out = h @ mixer.to_v.weight.T, []

        def tap(offset: float):
            low, share = int(offset // 1), offset % 1
            inside = [abs(k) <= half_width for k in (low, low + 1)]
            pair = [mixer.taps[:, 0, k + half_width] if ok else 0 for k, ok in zip((low, low + 1), inside, strict=True)]
            return (1 - share) * pair[0] + share * pair[1], (1 - share) * inside[0] + share * inside[1]

        for r in ranks.tolist():
            total, met = torch.zeros(16, dtype=torch.float64), 0.0
            for j in range(len(h)):
                weight, valid = tap(j - r)
                total, met = total + weight * v[j], met + valid
            out.append(mixer.to_out(total * (2 * half_width + 1) / (met or 1)))
        return torch.stack(out) if out else h.new_zeros(0, 16)

    compare(mixer, ctx, direct)


def test_conv_far_from_the_ends_is_a_convolution():
    mixer, h = unit("conv", half_width=2), torch.randn(1, 9, 16, dtype=torch.float64)
    ranks = torch.arange(9)[None]
    ctx = Tokens(h, torch.zeros(1, 9, 1, dtype=torch.float64), None, torch.tensor([9]), ranks, None, ranks)
    plain = torch.nn.functional.conv1d(mixer.to_v(h).mT, mixer.taps, groups=16).mT
    torch.testing.assert_close(mixer.read(ctx, mixer.summarise(ctx)[0])[:, 2:-2], mixer.to_out(plain), **CLOSE)


def test_conv_sees_no_further_than_its_reach():
    """A point appended at the end changes the output at the last `half_width` points, and nowhere before."""
    mixer = unit("conv", half_width=2)
    h, ranks = torch.randn(1, 9, 16, dtype=torch.float64), torch.arange(9)[None]
    x = torch.zeros(1, 9, 1, dtype=torch.float64)
    outs = []
    for n in (8, 9):
        ctx = Tokens(h[:, :n], x[:, :n], None, torch.tensor([n]), ranks[:, :n], None, ranks[:, :n])
        outs.append(mixer.read(ctx, mixer.summarise(ctx)[0])[:, :8])
    changed = (outs[0] - outs[1]).abs().amax((0, 2)) > 1e-9
    assert changed.tolist() == [False] * 6 + [True] * 2 and mixer.reach == 2


def test_bad_settings_are_refused(untyped):
    for name, settings in (("ssm", {"num_states": 0}), ("ssm", {"min_scale": 0.0}), ("conv", {"half_width": -1})):
        with pytest.raises(ConfigError, match="at least"):
            unit(name, **settings)
    with pytest.raises(ConfigError, match="max_scale"):
        unit("ssm", min_scale=2.0, max_scale=1.0)
    with pytest.raises(UnknownNameError, match="ortho"):
        unit("fnet", norm="orto")
