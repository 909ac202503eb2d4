import torch

from npexp.mixers.base import Tokens
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
    """At small queries the error goes as the root of the number of features: an eighth, with some room for luck."""
    errors = []
    for m in (64, 4096):
        unit, (ctx, _) = mixer("scatterbrain", window=1, num_features=m), tokens()
        with torch.no_grad():
            unit.attention.to_q.weight.mul_(0.3)
        dense = mixer("dense")
        dense.attention.load_state_dict(unit.attention.state_dict())
        away = unit.read(ctx, unit.summarise(ctx)[0]) - dense.read(ctx, dense.summarise(ctx)[0])
        errors.append(away[ctx.mask].square().mean().sqrt())
    assert errors[1] < errors[0] / 5
