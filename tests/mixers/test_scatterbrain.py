import torch

from npexp.mixers.base import Tokens
from npexp.mixers.features import orthogonal
from tests.mixers.test_pattern import allowed, mixer, same_with_gradients, tokens


def naive(unit, q: Tokens, ctx: Tokens):
    """One matrix of weights: the softmax's inside the window, the kernel's outside."""
    kv, heads = unit.attention.project(ctx.h), unit.attention.query(q.h)

    def phi(y):
        y = y / 4**0.25
        return (y @ unit.w.mT - y.square().sum(-1, keepdim=True) / 2).exp() / unit.w.shape[1] ** 0.5

    near = allowed(unit.patterns()[0], q, ctx)[:, None]
    weight = torch.where(near, (heads @ kv.k.mT / 2).exp(), phi(heads) @ phi(kv.k).mT) * ctx.mask[:, None, None]
    return unit.attention.merge(weight @ kv.v / weight.sum(-1, keepdim=True).clamp_min(1e-12))


def test_equals_the_matrix_of_mixed_weights():
    unit, (ctx, targets) = mixer("scatterbrain", window=3, num_features=7), tokens()
    state, _ = unit.summarise(ctx)
    for rows in (ctx, targets):
        same_with_gradients(unit, unit.read(rows, state), naive(unit, rows, ctx), rows)


def test_many_features_give_softmax_beyond_the_window_too():
    """The error goes as the root of the number of features: a quarter, with some room for luck."""
    unit, (ctx, _) = mixer("scatterbrain", window=1), tokens()
    dense = mixer("dense")
    dense.attention.load_state_dict(unit.attention.state_dict())
    expected = dense.read(ctx, dense.summarise(ctx)[0])
    errors = []
    for m in (256, 4096):
        away = []
        for _ in range(10):
            unit.w = orthogonal(2, m, 4).double()
            away.append((unit.read(ctx, unit.summarise(ctx)[0]) - expected)[ctx.mask])
        errors.append(torch.stack(away).abs().median())  # a mean would be that of a few
    assert errors[0] / 6 < errors[1] < errors[0] / 2.5
