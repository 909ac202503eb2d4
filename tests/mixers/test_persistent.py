"""All-attention against PyTorch's attention over a longer list of keys."""

import pytest
import torch

from npexp.batch import count
from npexp.errors import ConfigError
from npexp.mixers.base import Site, Tokens, make_mixer
from npexp.ops.attention import attend_part, merge_parts
from tests.contracts.checks import CLOSE, differ, tasks, tiny, tiny_mixer

SITE = Site(dx=2, dz=16, num_heads=2, layer=0)


def tokens(n: int = 7, seed: int = 0) -> Tokens:
    g = torch.Generator().manual_seed(seed)
    h, x = (torch.randn(3, n, d, generator=g, dtype=torch.float64) for d in (16, 2))
    mask = torch.rand(3, n, generator=g) < 0.7
    mask[2] = False
    return Tokens(h, x, mask, count(mask, h))


def unit(**settings):
    torch.manual_seed(0)
    return make_mixer("all_attention", SITE, settings).double()


@pytest.mark.parametrize("masked", [False, True])
def test_two_key_sets_are_merged_into_one_softmax(masked):
    mixer, ctx, q = unit(num_persistent=5), tokens(), tokens(4, seed=1)
    state, _ = mixer.summarise(ctx if masked else ctx._replace(mask=None))
    query = mixer.attention.query(q.h)
    learned = attend_part(query, mixer.k.expand(3, -1, -1, -1), mixer.v.expand(3, -1, -1, -1))
    expected = mixer.attention.merge(merge_parts(attend_part(query, *state), learned).out)
    found = mixer.read(q, state)
    torch.testing.assert_close(found, expected, **CLOSE)
    g = torch.randn(found.shape, dtype=torch.float64)
    grads = (torch.autograd.grad((o * g).sum(), list(mixer.parameters()), retain_graph=True) for o in (found, expected))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_the_state_is_that_of_dense_attention():
    """Learned keys are no part of it: it grows by what a point costs, and starts from nothing."""
    mixer, ctx = unit(), tokens()
    assert mixer.summarise(ctx)[0].k.shape == (3, 2, 7, 8)
    state, _ = mixer.summarise(tokens(0))
    assert state.k.numel() == 0


def test_without_a_context_the_learned_values_are_read():
    mixer, q = unit(num_persistent=5), tokens(4, seed=1)
    nothing = mixer.read(q, mixer.summarise(tokens(0))[0])
    torch.testing.assert_close(nothing[2], mixer.read(q, mixer.summarise(tokens())[0])[2], **CLOSE)
    assert (nothing[:, 0] - nothing[:, 1]).abs().max() > 1e-3, "all rows read the same"


def test_rows_see_what_they_may_and_the_learned_keys():
    mixer, ctx, q = unit(num_persistent=5), tokens(), tokens(4, seed=1)
    seen = torch.tensor([0, 1, 3, 7]).expand(3, 4)
    together = mixer.read(q._replace(seen=seen), mixer.summarise(ctx)[0])
    for i, n in enumerate((0, 1, 3, 7)):
        state, _ = mixer.summarise(Tokens(ctx.h[:, :n], ctx.x[:, :n], ctx.mask[:, :n], ctx.mask[:, :n].sum(1)))
        torch.testing.assert_close(mixer.read(q, state)[:, i], together[:, i], **CLOSE)


def test_there_is_no_feed_forward():
    model = tiny_mixer("all_attention", "read")
    assert all(block.ff is None and block.norm_ff is None for block in model.stack.blocks)


def test_as_many_learned_keys_as_hidden_units_are_as_many_parameters():
    """Two matrices for two matrices: only the feed-forward's biases and layer norm are gone."""
    sizes = {"num_layers": 1, "dim_feedforward": 24, "activation": "relu"}
    dense = tiny("tnp", **sizes)
    whole = tiny("tnp", mixer="all_attention", mixer_args={"num_persistent": 24}, **sizes)
    gone = sum(p.numel() for p in dense.parameters()) - sum(p.numel() for p in whole.parameters())
    assert gone == 24 + 16 + 2 * 16


def test_it_knows_something_before_it_has_seen_anything():
    t = tasks(nc=0)
    model = tiny_mixer("all_attention", "read")
    before = model(t.xc, t.yc, t.xt)
    model.stack.blocks[0].mixer.v.data.add_(1)
    assert differ(before, model(t.xc, t.yc, t.xt))


def test_impossible_sizes_are_refused(untyped):
    with pytest.raises(ConfigError, match="num_persistent"):
        unit(num_persistent=-1)
