"""What must hold for any mixer on its own, as functions of its name: each raises AssertionError where it does not.

Where `checks` looks at whole models of few points, here are two bare layers (no norms, no feed-forward) and tasks that
outgrow the default windows, blocks and latents, so that what those do shows. In float64 unless said.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from npexp.cost import Operations
from npexp.errors import UnsupportedError
from npexp.layers.penalty import collect_penalties
from npexp.mixer_costs import layers, run
from npexp.mixers.base import Mixer, Site, Tokens, find_mixer, make_mixer
from npexp.mixers.dense import Dense
from npexp.mixers.stack import Stack
from npexp.ops.order import canonical_order, curve_key, target_rank
from npexp.ops.tree import nbytes, tensors, tree_map
from tests.contracts.checks import CLOSE

SITE = Site(dx=1, dz=16, num_heads=2, layer=0)
SIZES = (160, 37, 1, 0)  # of contexts: more than default windows and blocks, fewer than default latents, none
NUM_TARGETS = 9


def units(name: str, seed: int = 0, dx: int = 1, layers: int = 2, settings: dict[str, Any] | None = None) -> Any:
    """The mixers of some layers, their weights shaken out of their initial zeros."""
    torch.manual_seed(seed)
    sites = [SITE._replace(dx=dx, layer=i) for i in range(layers)]
    made = nn.ModuleList(make_mixer(name, site, settings) for site in sites).double().eval()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


def tokens(name: str, sizes: Sequence[int] = SIZES, dx: int = 1, tied: bool = False) -> tuple[Tokens, Tokens]:
    """A context in canonical order, padded with zeros, and targets, as the stack would hand them to this mixer."""
    g = torch.Generator().manual_seed(0)
    b, nc = len(sizes), max(sizes)
    h, x, xt = (torch.randn(b, n, d, generator=g).double() for n, d in ((nc, SITE.dz), (nc, dx), (NUM_TARGETS, dx)))
    if tied:
        x = torch.zeros_like(x)
    mask = torch.arange(nc) < torch.tensor(sizes)[:, None]
    order = canonical_order(x, h[..., :1], mask)[..., None]
    h, x = (torch.where(mask[..., None], v.gather(1, order.expand_as(v)), torch.zeros_like(v)) for v in (h, x))
    n, slot, mask = mask.sum(1), torch.arange(nc).expand(b, nc), None if min(sizes) == nc else mask
    ordered = find_mixer(name)[0].needs_order
    rank = target_rank(curve_key(x), curve_key(xt), n) if ordered else None
    queries = Tokens(torch.randn(b, NUM_TARGETS, SITE.dz, generator=g).double(), xt, None, n, rank)
    return Tokens(h, x, mask, n, slot if ordered else None, None, slot), queries


def rows(t: Tokens, index: Any, **changes: Any) -> Tokens:
    """Some of the rows."""
    per_row = {f: getattr(t, f) for f in ("h", "x", "mask", "pos", "slot")}
    return t._replace(**{f: None if v is None else v[:, index] for f, v in per_row.items()}, **changes)


def task(t: Tokens, i: int, n: int | None = None) -> Tokens:
    """One task alone; with n, its first n rows without a mask."""
    one = Tokens(*(None if v is None else v[i : i + 1] for v in t))
    return one if n is None else rows(one, slice(n))._replace(mask=None)


def read(mixers: Sequence[Mixer], ctx: Tokens, q: Tokens) -> Tensor:
    """What the rows q read from each layer, `[layers, b, n, dz]`, while the context moves on in its default wiring."""
    outs, carry = [], None
    for mixer in mixers:
        state, carry = mixer.summarise(ctx, carry)
        outs.append(mixer.read(q, state))
        if mixer.contexts[0] == "read":
            ctx = mixer.shorten(ctx, state)
            ctx = ctx._replace(h=ctx.h + mixer.read(ctx, state))
    return torch.stack(outs)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, **CLOSE)


def exact(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def differ(a: Tensor, b: Tensor) -> bool:
    """By more than round-off."""
    return bool((a - b).abs().max() > 1e-6)


def finite_gradients(mixers: nn.Module, out: Tensor, *inputs: Tensor) -> None:
    """Outputs and all gradients are numbers."""
    assert out.isfinite().all()
    if not out.requires_grad:
        return
    of = [*mixers.parameters(), *inputs]
    grads = torch.autograd.grad(out.float().square().sum(), of, allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in grads)


def order_as_declared(name: str) -> None:
    """Shuffled behind the back of the stack, the context gives the same exactly where the traits say so."""
    mixers, (ctx, q) = units(name), tokens(name, (160, 160))
    shuffled = torch.randperm(160, generator=torch.Generator().manual_seed(1))
    other = ctx._replace(h=ctx.h[:, shuffled], x=ctx.x[:, shuffled])
    a, b = read(mixers, ctx, q), read(mixers, other, q)
    if mixers[0].permutation_invariant:
        close(a, b)
    else:
        assert differ(a, b)


def pads_are_inert(name: str) -> None:
    """Garbage in pads and further pads change nothing, and no gradient reaches them."""
    mixers, (ctx, q) = units(name), tokens(name)
    expected = read(mixers, ctx, q)
    for more in (0, 5):
        h, x = (nn.functional.pad(v, (0, 0, 0, more)) for v in (ctx.h, ctx.x))
        mask = nn.functional.pad(ctx.mask, (0, more))
        sign = torch.where(torch.arange(h.shape[1]) % 2 == 0, 1e3, -1e3)[:, None].double()
        h, x = (torch.where(mask[..., None], v, sign.expand_as(v)).requires_grad_() for v in (h, x))
        slot = torch.arange(h.shape[1]).expand(mask.shape)
        dirty = Tokens(h, x, mask, ctx.n, None if ctx.pos is None else slot, None, slot)
        out = read(mixers, dirty, q)
        close(out, expected)
        for g in torch.autograd.grad(out.square().sum(), (h, x), allow_unused=True):
            assert g is None or not g[~mask].any()


def tasks_are_alone(name: str) -> None:
    """A task without batch mates and without pads reads the same."""
    mixers, (ctx, q) = units(name), tokens(name)
    together = read(mixers, ctx, q)
    for i, n in enumerate(SIZES):
        close(read(mixers, task(ctx, i, n), task(q, i)), together[:, i : i + 1])


def rows_are_alone(name: str) -> None:
    """Rows read the same one by one, in pieces, reordered or together, whether they are targets or the context."""
    mixers, (ctx, q) = units(name), tokens(name)
    together = read(mixers, ctx, q)
    back = torch.arange(NUM_TARGETS - 1, -1, -1)
    close(read(mixers, ctx, rows(q, back)), together[:, :, back])
    for i in (0, 4):
        close(read(mixers, ctx, rows(q, slice(i, i + 1))), together[:, :, i : i + 1])
    state, _ = mixers[0].summarise(ctx)
    moved = mixers[0].shorten(ctx, state)
    changed, i = moved.h.clone(), min(5, moved.h.shape[1] - 1)
    changed[:, i] += 1
    change = mixers[0].read(moved._replace(h=changed), state) - mixers[0].read(moved, state)
    assert change[:, torch.arange(change.shape[1]) != i].abs().max() < 1e-9


def small_contexts_work(name: str) -> None:
    """No point, one and two, batches of nothing at all, and points in one place give finite values and gradients."""
    mixers = units(name)
    for sizes in ((2, 1, 0), (1, 1), (0, 0)):
        ctx, q = tokens(name, sizes)
        finite_gradients(mixers, read(mixers, ctx, q))


def ties_are_ordinary(name: str) -> None:
    """Points in one place, and points that are there twice."""
    mixers, (ctx, q) = units(name), tokens(name, (40, 7), tied=True)
    twice = rows(ctx, torch.arange(40).repeat_interleave(2))
    n, slot = 2 * ctx.n, torch.arange(80).expand(2, 80)
    twice = twice._replace(n=n, slot=slot, pos=None if ctx.pos is None else slot)
    x = twice.x.clone().requires_grad_()
    q = q._replace(n=n, pos=None if q.pos is None else n[:, None] - 0.5 - 1.0 * torch.arange(NUM_TARGETS) % 3)
    out = read(mixers, twice._replace(x=x), q)
    finite_gradients(mixers, out, x)
    if mixers[0].permutation_invariant:  # pads are in front, too
        close(read(mixers, twice._replace(**{f: getattr(twice, f).flip(1) for f in ("h", "x", "mask")}), q), out)


def states_belong_to_tasks(name: str) -> None:
    """Every tensor of a state has the tasks on its first axis, so that states can be selected, split and moved."""
    mixer, (ctx, q) = units(name)[0], tokens(name)
    state, _ = mixer.summarise(ctx)
    assert tensors(state) and all(t.shape[0] == len(SIZES) for t in tensors(state))
    some = [2, 0]
    chosen = Tokens(*(None if v is None else v[some] for v in q))
    close(mixer.read(chosen, tree_map(lambda t: t[some], state)), mixer.read(q, state)[some])


def state_bytes_as_declared(name: str) -> None:
    """A constant state has the same bytes after any number of points, any other grows."""
    mixer = units(name)[0]
    with torch.no_grad():
        sizes = [nbytes(mixer.summarise(tokens(name, (n,))[0])[0]) for n in (3, 40, 320)]
    assert (len(set(sizes)) == 1) == (mixer.state == "constant"), sizes
    assert sizes[0] <= sizes[-1]


def translation_as_declared(name: str) -> None:
    """Translation equivariant is what sees differences of x, and those only; anything else is blind, or sees x.

    What needs an order may say no all the same: in more than one dimension the order sees x.
    """
    mixers, (ctx, q) = units(name, dx=2), tokens(name, dx=2)
    here = read(mixers, ctx, q)
    step = torch.tensor([0.7, -0.3], dtype=torch.float64)
    moved = read(mixers, ctx._replace(x=ctx.x + step), q._replace(x=q.x + step))
    wider = read(mixers, ctx._replace(x=1.3 * ctx.x), q._replace(x=1.3 * q.x))
    if mixers[0].translation_equivariant:
        close(moved, here)
        assert differ(wider, here), "does not see where points are"
    else:
        blind = not differ(wider, here)
        assert blind or differ(moved, here) or mixers[0].needs_order, "sees differences of x only, and does not say so"


def precision_as_promised(name: str) -> None:
    """In float32 and under bfloat16 autocast values and gradients are finite, and states float32 or better."""
    mixers, (ctx, q) = units(name).float(), tokens(name)
    ctx, q = (t._replace(h=t.h.float(), x=t.x.float()) for t in (ctx, q))
    finite_gradients(mixers, read(mixers, ctx, q))
    with torch.autocast("cpu", torch.bfloat16):
        out = read(mixers, ctx, q)
        state, _ = mixers[0].summarise(ctx)
    finite_gradients(mixers, out)
    floats = [t.dtype for t in tensors(state) if t.is_floating_point()]
    assert set(floats) <= {torch.float32, torch.float64}, floats


def runs_are_repeatable(name: str) -> None:
    """Nothing is drawn anew; only a loss that is being computed moves statistics, and only from the next pass on."""
    mixers, (ctx, q) = units(name), tokens(name)
    first, kept = read(mixers, ctx, q), {k: v.clone() for k, v in mixers.state_dict().items()}
    torch.manual_seed(7)
    exact(read(mixers, ctx, q), first)
    mixers.train()
    exact(read(mixers, ctx, q), first)
    for key, value in mixers.state_dict().items():
        exact(value, kept[key])
    with collect_penalties() as terms:
        exact(read(mixers, ctx, q), first)
    assert all(t.ndim == 0 and t.isfinite() for t in terms)


def state_dict_is_complete(name: str) -> None:
    """Weights and buffers saved from one mixer make another read the same."""
    saved, other, (ctx, q) = units(name), units(name, seed=1), tokens(name)
    other.load_state_dict(saved.state_dict())
    exact(read(other, ctx, q), read(saved, ctx, q))


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that what runs inside it makes; views and expanded tensors take nothing more."""

    def __init__(self):
        super().__init__()
        self.nbytes = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as in npexp.cost

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self.nbytes = max(self.nbytes, t.untyped_storage().nbytes())
        return out


def growth_as_declared(name: str) -> None:
    """Operations, and the largest tensor, of a layer whose context reads itself grow with no more than `exponent`."""
    # who claims no less than quadratic growth shows it at small sizes; larger ones would only take time
    sizes = (256, 512) if find_mixer(name)[0].exponent >= 2 else (2048, 4096)
    costs = []
    for n in sizes:
        mixers, ctx = layers(name, n, SITE)
        with torch.no_grad(), Operations() as counted, LargestTensor() as largest:
            run(mixers, ctx)
        costs.append((counted.total, largest.nbytes))
    ratio = torch.tensor(costs[1]) / torch.tensor(costs[0])
    slopes = ratio.log2().tolist()
    declared = mixers[0].exponent
    assert max(slopes) <= declared + 0.1, f"operations and memory grow as n^{slopes}, not n^{declared}"


def dense_in_the_limit(name: str) -> None:
    """With the settings `dense_limit` it is dense attention: values and gradients, of targets and of the context."""
    limit = find_mixer(name)[0].dense_limit
    ctx, q = tokens(name, (33, 20, 1, 0))
    mixer = units(name, layers=1, settings=limit)[0]  # further layers may move their blocks or cells
    weights = mixer.attention.state_dict()
    dense = Dense(SITE, bias="to_q.bias" in weights).double()
    dense.attention.load_state_dict(weights)
    for who in (q, ctx):
        found, expected = (_values_and_gradients(m, ctx, who) for m in (mixer, dense))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def _values_and_gradients(mixer: Any, ctx: Tokens, q: Tokens) -> list[Tensor]:
    """Of real rows, by the features of both sides and by all weights of the attention."""
    h, rows_h = ctx.h.clone().requires_grad_(), q.h.clone().requires_grad_()
    ctx = ctx._replace(h=h)
    out = mixer.read(q._replace(h=rows_h), mixer.summarise(ctx)[0])
    if q.mask is not None:
        out = out[q.mask]
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=out.dtype)
    return [out, *torch.autograd.grad((out * g).sum(), (h, rows_h, *mixer.attention.parameters()))]


def end_is_local(name: str) -> None:
    """A point behind the end of the order changes the last `reach` points of a layer, twice as many of two layers."""
    mixer = units(name)[0]
    n = 4 * mixer.reach + 50
    longer, _ = tokens(name, (n + 1,))
    ctx = rows(longer, slice(n), n=longer.n - 1)
    with pytest.raises(UnsupportedError):
        mixer.extend(mixer.summarise(ctx)[0], rows(longer, slice(n, None), n=longer.n - n))
    torch.manual_seed(0)
    stack = Stack(SITE.dx, name, 2, SITE.dz, SITE.num_heads, 16).double().eval()
    reach = 0
    carries: list[Any] = [None, None]
    both = [ctx, longer]
    for block in stack.blocks:
        reach += block.mixer.reach
        for i, t in enumerate(both):
            state, carries[i] = block.summarise(t, carries[i])
            both[i] = block.read(t, state)
        change = (both[0].h - both[1].h[:, :n]).abs().amax((0, 2))
        assert change[: n - reach].max() < 1e-9, f"reaches further than {reach} points"
        assert change[n - reach :].max() > 1e-6, "reaches no neighbour"


TYPED = {pads_are_inert, small_contexts_work, precision_as_promised, states_belong_to_tasks}  # as in `checks`

ALWAYS: list[Callable[[str], None]] = [
    order_as_declared,
    pads_are_inert,
    tasks_are_alone,
    rows_are_alone,
    small_contexts_work,
    ties_are_ordinary,
    states_belong_to_tasks,
    state_bytes_as_declared,
    translation_as_declared,
    precision_as_promised,
    runs_are_repeatable,
    state_dict_is_complete,
    growth_as_declared,
]
