"""Pooled tokens: against the blocks they are made of, and what of them can be updated."""

import pytest
import torch
from torch.nn.functional import gelu

from npexp.batch import count
from npexp.errors import ConfigError, UnsupportedError
from npexp.mixers.base import Site, Tokens, make_mixer
from npexp.ops.tree import tensors
from tests.contracts.checks import CLOSE, tasks, tiny_mixer
from tests.mixers.test_latent import mab

NAMES = ["pma", "token_learner"]


def tokens(n: int = 7, seed: int = 0) -> Tokens:
    g = torch.Generator().manual_seed(seed)
    h, x = (torch.randn(3, n, d, generator=g, dtype=torch.float64) for d in (16, 2))
    mask = torch.arange(n) < torch.tensor([[n], [n // 2], [0]])
    return Tokens(torch.where(mask[..., None], h, 1e3), x, mask, count(mask, h))


def mixer(name, layer: int = 0, **settings):
    torch.manual_seed(0)
    return make_mixer(name, Site(2, 16, 2, layer), settings).double()


def sab(block, z):
    """SAB by way of `mab`, which keeps norms for queries and keys apart."""
    block.norm_keys = block.norm
    return mab(block, z, z)


def test_pma_is_seeds_that_read_the_points_and_each_other():
    unit, ctx = mixer("pma", num_seeds=3), tokens()
    state, carry = unit.summarise(ctx)
    for i, n in enumerate(ctx.n.tolist()[:2]):
        pooled = mab(unit.block, unit.seeds[None], ctx.h[i : i + 1, :n])
        torch.testing.assert_close(state.z[i : i + 1], sab(unit.self_block, pooled), **CLOSE)
    assert carry is state.z


def test_pma_pools_once():
    """Later layers go on with the tokens and look at no point."""
    unit, ctx = mixer("pma", layer=1, num_seeds=3), tokens()
    assert unit.seeds is None and unit.block is None
    carry = torch.randn(3, 3, 16, dtype=torch.float64)
    state, _ = unit.summarise(ctx, carry)
    torch.testing.assert_close(state.z, sab(unit.self_block, carry), **CLOSE)
    assert len(tensors(state)) == 1
    extended, _ = unit.extend(state, tokens(seed=1), carry)
    torch.testing.assert_close(extended.z, state.z)


def test_one_set_of_weights_pools_once_as_well():
    model, t = tiny_mixer("pma", "raw", share_layers=True), tasks()
    first, *later = model.encode(t.xc, t.yc).summary.layers
    assert first.part is not None and all(state.part is None for state in later)


def test_token_learner_averages_points_by_scores_of_their_own():
    unit, ctx = mixer("token_learner", num_tokens=3), tokens()
    ctx.h.requires_grad_()
    state, pooled = unit.summarise(ctx)[0], []
    for i, n in enumerate(ctx.n.tolist()):
        h = ctx.h[i, :n]
        scores = gelu(h @ unit.hidden.weight.mT + unit.hidden.bias) @ unit.scores.mT / 4
        pooled.append((scores.softmax(0)[..., None] * h[:, None]).sum(0))
    expected = unit.self_block(torch.stack(pooled))
    torch.testing.assert_close(state.z, expected, **CLOSE)
    leaves = [ctx.h, unit.scores, unit.hidden.weight]
    for a, b in zip(*(torch.autograd.grad(z.square().sum(), leaves) for z in (state.z, expected)), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_ragged_points_in_two_steps(name):
    unit, a, b = mixer(name), tokens(), tokens(5, seed=1)
    both = Tokens(*(torch.cat([getattr(t, f) for t in (a, b)], 1) for f in ("h", "x", "mask")), a.n + b.n)
    whole, parts = unit.summarise(both)[0], unit.extend(unit.summarise(a)[0], b)[0]
    torch.testing.assert_close(parts.part.out, whole.part.out, **CLOSE)
    torch.testing.assert_close(unit.read(b, parts), unit.read(b, whole), **CLOSE)
    with pytest.raises(UnsupportedError, match="cmab"):
        unit.retract(parts, b)


@pytest.mark.parametrize(("name", "learned"), [("pma", "seeds"), ("token_learner", "scores")])
def test_order_of_tokens_does_not_matter(name, learned):
    unit, ctx = mixer(name), tokens()
    before = unit.read(ctx, unit.summarise(ctx)[0])
    getattr(unit, learned).data.copy_(getattr(unit, learned).data.flip(0))
    torch.testing.assert_close(unit.read(ctx, unit.summarise(ctx)[0]), before, **CLOSE)


def test_one_token_gives_every_row_the_same():
    for name, settings in [("pma", {"num_seeds": 1}), ("token_learner", {"num_tokens": 1})]:
        unit, ctx = mixer(name, **settings), tokens()
        read = unit.read(ctx, unit.summarise(ctx)[0])
        torch.testing.assert_close(read, read[:, :1].expand_as(read), **CLOSE)


@pytest.mark.parametrize(("name", "settings"), [("pma", {"num_seeds": 0}), ("token_learner", {"num_tokens": 0})])
def test_impossible_sizes_are_refused(name, settings, untyped):
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        mixer(name, **settings)
