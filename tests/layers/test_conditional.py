"""Mixtures of experts, product key memories and block-sparse feed-forwards against spelled-out twins."""

import pytest
import torch
from torch.nn.functional import softmax

from npexp.errors import ConfigError
from npexp.layers.block_sparse import BlockSparseFeedForward
from npexp.layers.conditional import active_parameters
from npexp.layers.mixture_of_experts import MixtureOfExperts
from npexp.layers.mlp import FeedForward
from npexp.layers.penalty import collect_penalties
from npexp.layers.product_key import ProductKeyMemory
from tests.contracts.checks import CLOSE


def rows(b=3, n=7, seed=0):
    return torch.randn(b, n, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def experts(num_experts=4, top_k=2, activation="gelu", balance=1.0):
    torch.manual_seed(0)
    layer = MixtureOfExperts(6, 5, activation, num_experts, top_k, balance).double()
    with torch.no_grad():
        layer.router.weight.mul_(3)
    return layer


def block_sparse(dim=10, block=4, activation="relu"):
    torch.manual_seed(0)
    return BlockSparseFeedForward(6, dim, activation, block, 3).double()


def memory(num_keys=9, top_k=3, num_heads=2):
    torch.manual_seed(0)
    return ProductKeyMemory(6, num_keys, top_k, num_heads, dim_query=8).double()


def same_gradients(layer, found, expected, h):
    g = torch.randn(found.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    leaves = [h, *layer.parameters()]
    grads = (torch.autograd.grad((o * g).sum(), leaves, allow_unused=True) for o in (found, expected))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, **CLOSE)


@pytest.mark.parametrize("activation", ["relu", "geglu"])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_experts_row_by_row(top_k, activation):
    layer, h = experts(top_k=top_k, activation=activation), rows().requires_grad_()
    expected = []
    for row in h.flatten(0, 1):
        likes = softmax(layer.router.weight @ row, -1)
        best = likes.argsort(descending=True)[:top_k].tolist()
        total = 1 if top_k == 1 else sum(likes[e] for e in best)
        expected.append(sum(likes[e] / total * layer.experts[e](row) for e in best))
    expected, found = torch.stack(expected).view(h.shape), layer(h)
    torch.testing.assert_close(found, expected, **CLOSE)
    same_gradients(layer, found, expected, h)


def test_one_expert_is_the_feed_forward():
    layer, h = experts(num_experts=1, top_k=1), rows()
    torch.testing.assert_close(layer(h), layer.experts[0](h), **CLOSE)


@pytest.mark.parametrize("top_k", [1, 2])
def test_rows_of_experts_are_alone(top_k):
    """However many want the same expert: no capacity, so no competition."""
    layer, h = experts(top_k=top_k), rows(1, 40)
    layer.router.weight.data.mul_(0).add_(torch.arange(4)[:, None])  # most rows want the last or the first
    together = layer(h)
    for i in range(40):
        torch.testing.assert_close(layer(h[:, i : i + 1]), together[:, i : i + 1], **CLOSE)
    torch.testing.assert_close(layer(h.flip(1)), together.flip(1), **CLOSE)


def test_unwanted_experts_have_gradients_of_zero():
    layer, h = experts(num_experts=5, top_k=1), rows(1, 1)
    layer(h).sum().backward()
    wanted = [bool(expert.up.weight.grad.any()) for expert in layer.experts]
    assert sum(wanted) == 1
    layer.zero_grad()
    layer(h[:, :0]).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


def test_load_balance_loss():
    """e sum_e f_e P_e over real rows, of task and padding lengths that differ."""
    layer, h = experts(balance=0.3), rows()
    mask = torch.arange(7) < torch.tensor([7, 2, 0])[:, None]
    with collect_penalties() as (terms):
        layer(torch.where(mask[..., None], h, 1e3), mask)
        layer(h)
        layer(h, torch.zeros_like(mask))
    expected = []
    for real in (h[mask], h.flatten(0, 1)):
        likes = softmax(real @ layer.router.weight.mT, -1)
        share = torch.tensor([(likes.argmax(-1) == e).double().mean() for e in range(4)])
        expected.append(0.3 * 4 * sum(share * likes.mean(0)))
    torch.testing.assert_close(torch.stack(terms), torch.stack([*expected, torch.tensor(0.0).double()]))


def test_even_use_has_a_loss_of_one():
    layer = experts(top_k=1)
    layer.router.weight.data.copy_(20 * torch.eye(4, 6))
    with collect_penalties() as terms:
        layer(torch.eye(4, 6, dtype=torch.float64)[None])
    torch.testing.assert_close(terms[0], torch.tensor(1.0).double(), rtol=1e-6, atol=0)


def test_routing_ignores_autocast():
    layer, h = experts().float(), rows().float()
    with torch.autocast("cpu", torch.bfloat16):
        chosen, gates = layer._route(h.flatten(0, 1), None)
        assert layer(h).isfinite().all()
    assert gates.dtype == torch.float32
    torch.testing.assert_close(chosen, layer._route(h.flatten(0, 1), None)[0])


def test_product_keys_find_the_best_of_all_pairs():
    layer, h = memory(), rows().flatten(0, 1)
    scores, chosen = layer.choose(h)
    q = layer.norm(layer.to_q(h).unflatten(-1, (2, 8)))
    for head in range(2):
        left, right = layer.keys[head]
        keys = torch.stack([torch.cat([a, b]) for a in left for b in right])
        best = (q[:, head] @ keys.mT).topk(3)
        torch.testing.assert_close(scores[:, head], best.values, **CLOSE)
        torch.testing.assert_close(chosen[:, head], best.indices)


def test_memory_reads_a_softmax_of_its_values():
    layer, h = memory(), rows().requires_grad_()
    scores, chosen = layer.choose(h.flatten(0, 1))
    expected = (scores.softmax(-1)[..., None] * layer.values[chosen]).sum((1, 2)).view(h.shape)
    found = layer(h)
    torch.testing.assert_close(found, expected, **CLOSE)
    same_gradients(layer, found, expected, h)
    assert layer(h[:, :0]).shape == (3, 0, 6)


def test_rows_of_a_memory_are_alone():
    """With the layer norm also in training, where a batch norm would couple them."""
    layer, h = memory().train(), rows(1)
    torch.testing.assert_close(torch.cat([layer(h[:, i : i + 1]) for i in range(7)], 1), layer(h), **CLOSE)


@pytest.mark.parametrize(("dim", "block", "activation"), [(12, 4, "relu"), (10, 4, "gelu"), (5, 8, "geglu")])
def test_one_unit_of_every_block(dim, block, activation):
    layer, h = block_sparse(dim, block, activation), rows()
    logits, hidden, expected = layer.controller(h), layer.ff.hidden(h), torch.zeros(3, 7, dim).double()
    for task in range(3):
        for i in range(7):
            for start in range(0, dim, block):
                j = start + int(logits[task, i, start : start + block].argmax())
                expected[task, i, j] = hidden[task, i, j]
    torch.testing.assert_close(layer(h), layer.ff.down(expected), **CLOSE)


def test_the_controller_learns_as_if_it_were_soft():
    layer, h = block_sparse(12), rows()
    g = torch.randn(3, 7, 6, dtype=torch.float64)
    soft = layer.controller(h).unflatten(-1, (-1, 4)).softmax(-1).flatten(-2)
    upstream = (g @ layer.ff.down.weight) * layer.ff.hidden(h)
    expected = torch.autograd.grad((soft * upstream.detach()).sum(), list(layer.controller.parameters()))
    found = torch.autograd.grad((layer(h) * g).sum(), list(layer.controller.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_blocks_of_one_unit_are_the_feed_forward():
    layer, h = block_sparse(block=1), rows()
    torch.testing.assert_close(layer(h), layer.ff(h), **CLOSE)


@pytest.mark.parametrize("layer", [experts(top_k=1), experts(), block_sparse(), block_sparse(12, 3), memory()])
def test_active_parameters_are_those_that_one_row_moves(layer):
    """An output perturbed by nothing but the weights in use: count those with a gradient, controllers in full."""
    total = sum(p.numel() for p in layer.parameters())
    always = {name for name, _ in layer.named_parameters() if name.split(".")[0] in ("router", "controller", "keys")}
    always |= {name for name, _ in layer.named_parameters() if name.split(".")[0] in ("to_q", "norm")}
    with torch.no_grad():  # no dead units
        for p in layer.parameters():
            p.abs_().add_(0.01 * torch.rand_like(p))
    layer(rows(1, 1).abs()).sum().backward()
    moved = sum(p.numel() if name in always else int((p.grad != 0).sum()) for name, p in layer.named_parameters())
    assert active_parameters(layer) == moved < total


def test_all_parameters_are_active_elsewhere():
    layer = FeedForward(6, 5)
    assert active_parameters(layer) == sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: experts(num_experts=1, top_k=2), "num_experts to be an integer, at least 2"),
        (lambda: experts(balance=-1.0), "balance"),
        (lambda: memory(num_keys=2), "num_keys to be an integer, at least 3"),
        (lambda: memory(num_heads=0), "memory_heads"),
        (lambda: ProductKeyMemory(6, 4, 2, 2, 7), "even"),
        (lambda: block_sparse(block=0), "block"),
    ],
)
def test_impossible_settings_are_refused(make, message, untyped):
    with pytest.raises(ConfigError, match=message):
        make()
