"""What must hold for any neural process, as functions of a model: each raises AssertionError where it does not.

Models come in float64, so that tolerances mean something: round-off is 1e-12, a leak is 1e-3.
"""

import inspect
from functools import cache

import torch

import npexp
from npexp.batch import TaskBatch
from npexp.layers.penalty import collect_penalties
from npexp.models.base import NeuralProcess
from npexp.models.latent import LatentNeuralProcess
from npexp.objectives import OBJECTIVES, elbo, loglik, refusal
from npexp.ops.tree import nbytes, tensors
from npexp.registry import names

TINY = {"dz": 16, "num_layers": 2, "num_heads": 2, "dim_feedforward": 16, "num_latents": 3, "num_block_latents": 4}
TINY |= {"dim_latent": 4, "num_samples": 3, "dim_head": 8}
TINY |= {"domain": (-6.0, 6.0), "points_per_unit": 1.0, "num_levels": 2}  # lattices over all of `tasks`, of few points
CLOSE = {"rtol": 1e-9, "atol": 1e-10}

MODELS = names("model")
MIXERS = [(name, wiring) for name, t in npexp.available_mixers().items() for wiring in t["contexts"]]


@cache
def _arguments(name: str) -> set[str]:
    """Of the model's constructor."""
    model = npexp.build(name, dx=1, dy=1)
    assert npexp.registry._spec("model", name)["class_path"].endswith(type(model).__name__)
    return set(inspect.signature(type(model)).parameters)


def tiny(name: str, seed: int = 0, **overrides) -> NeuralProcess:
    """A small float64 model of any YAML, with dx = 2 and dy = 2, its weights shaken out of their initial zeros."""
    small = {k: v for k, v in TINY.items() if k in _arguments(name)}
    torch.manual_seed(seed)
    model = npexp.build(name, dx=2, dy=2, **{**small, **overrides}).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def tiny_mixer(mixer: str, wiring: str, **overrides) -> NeuralProcess:
    """A small TNP around a mixer."""
    return tiny("tnp", **{"mixer": mixer, "context": wiring, "num_layers": 3, **overrides})


def tasks(b: int = 3, nc: int = 7, nt: int = 5, seed: int = 0) -> TaskBatch:
    """Random tasks with dx = dy = 2."""
    g = torch.Generator().manual_seed(seed)
    return TaskBatch(*(torch.randn(b, n, 2, generator=g, dtype=torch.float64) for n in (nc, nc, nt, nt)))


def tied_tasks() -> TaskBatch:
    """Tasks in which points share a place, others come twice, and targets lie on them."""
    t = tasks()
    xc, yc = t.xc.clone(), t.yc.clone()
    xc[:, 2:4], xc[:, 5:], yc[:, 5:] = xc[:, 1:2], xc[:, :2], yc[:, :2]
    return t._replace(xc=xc, yc=yc, xt=xc[:, :5])


def same(a, b, **tolerance) -> None:
    """Two predictives have the same moments."""
    torch.testing.assert_close(a.mean, b.mean, **(tolerance or CLOSE))
    torch.testing.assert_close(a.stddev, b.stddev, **(tolerance or CLOSE))


def differ(a, b) -> bool:
    """Two predictives differ by more than round-off."""
    return bool((a.mean - b.mean).abs().max() + (a.stddev - b.stddev).abs().max() > 1e-6)


def depends_on_context(model: NeuralProcess) -> None:
    """A model that ignores its context would pass most checks."""
    t = tasks()
    assert differ(model(t.xc, t.yc, t.xt), model(t.xc, t.yc + 1, t.xt))
    assert differ(model(t.xc, t.yc, t.xt), model(t.xc + 1, t.yc, t.xt))


def permutation_invariant(model: NeuralProcess, exact: bool = False, t: TaskBatch | None = None) -> None:
    """The order of context points does not matter; `exact` means bit for bit. Where it matters, the traits say so."""
    t = t or tasks()
    order = torch.randperm(t.xc.shape[1], generator=torch.Generator().manual_seed(1))
    a, b = model(t.xc, t.yc, t.xt), model(t.xc[:, order], t.yc[:, order], t.xt)
    if model.traits["permutation_invariant"]:
        same(a, b, **({"rtol": 0, "atol": 0} if exact else {}))
    else:
        assert differ(a, b)


def targets_do_not_interact(model: NeuralProcess) -> None:
    """Targets predicted alone, reordered or together; where targets see each other, the traits say so."""
    t = tasks()
    state = model.encode(t.xc, t.yc)
    together = model.predict(state, t.xt)
    torch.testing.assert_close(together.mean.flip(1), model.predict(state, t.xt.flip(1)).mean, **CLOSE)
    alone = [model.predict(state, t.xt[:, i : i + 1]) for i in range(t.xt.shape[1])]
    means, stddevs = (torch.cat(moment, 1) for moment in zip(*((p.mean, p.stddev) for p in alone), strict=True))
    if model.traits["consistent"]:
        torch.testing.assert_close(together.mean, means, **CLOSE)
        torch.testing.assert_close(together.stddev, stddevs, **CLOSE)
    else:
        assert ((together.mean - means).abs() + (together.stddev - stddevs).abs()).max() > 1e-6


def translation_equivariant(model: NeuralProcess) -> None:
    """Moving all inputs by the same vector changes nothing exactly where the traits say so."""
    t = tasks()
    step = torch.tensor([0.7, -0.3], dtype=torch.float64)
    a, b = model(t.xc, t.yc, t.xt), model(t.xc + step, t.yc, t.xt + step)
    assert differ(a, b) != model.traits["translation_equivariant"]


def tasks_do_not_interact(model: NeuralProcess) -> None:
    """A task alone or among others."""
    t = tasks()
    batch = model(t.xc, t.yc, t.xt)
    for i in range(t.num_tasks):
        one = model(t.xc[i : i + 1], t.yc[i : i + 1], t.xt[i : i + 1])
        torch.testing.assert_close(batch.mean[i : i + 1], one.mean, **CLOSE)
        torch.testing.assert_close(batch.stddev[i : i + 1], one.stddev, **CLOSE)


def padding_is_inert(model: NeuralProcess) -> None:
    """Ragged tasks padded with NaN predict like the same tasks unpadded, with finite gradients."""
    t, sizes = tasks(), [7, 3, 0]
    mask = torch.arange(7) < torch.tensor(sizes)[:, None]
    nan = torch.full_like(t.xc, torch.nan)
    xc, yc = (torch.where(mask[..., None], v, nan) for v in (t.xc, t.yc))
    padded = model(xc, yc, t.xt, mask)
    for i, n in enumerate(sizes):
        one = model(t.xc[i : i + 1, :n], t.yc[i : i + 1, :n], t.xt[i : i + 1])
        torch.testing.assert_close(padded.mean[i : i + 1], one.mean, **CLOSE)
        torch.testing.assert_close(padded.stddev[i : i + 1], one.stddev, **CLOSE)
    few = torch.tensor([5, 2, 1])
    mask_t = torch.arange(5) < few[:, None]
    xt, yt = (torch.where(mask_t[..., None], v, torch.full_like(v, torch.nan)) for v in (t.xt, t.yt))
    padded = model(xc, yc, xt, mask, mask_t)
    scores = padded.joint_log_prob(yt, mask_t)
    for i, n in enumerate(few):
        state = model.encode(t.xc[i : i + 1], t.yc[i : i + 1], mask[i : i + 1])
        one = model.predict(state, t.xt[i : i + 1, :n]).joint_log_prob(t.yt[i : i + 1, :n])
        torch.testing.assert_close(scores[i : i + 1], one, **CLOSE)
    loss = -scores.sum()
    assert loss.isfinite()
    model.zero_grad()
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def small_contexts_work(model: NeuralProcess) -> None:
    """No point, one, two, and all points in one place give finite predictions and gradients."""
    for nc in (0, 1, 2):
        t = tasks(nc=nc)
        pred = model(t.xc, t.yc, t.xt)
        assert pred.mean.isfinite().all() and (pred.stddev > 0).all()
        model.zero_grad()
        pred.joint_log_prob(t.yt).sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    t = tasks()
    tied = torch.zeros_like(t.xc)
    assert model(tied, t.yc, t.xt).mean.isfinite().all()
    permutation_invariant(model)


def update_is_encode(model: NeuralProcess) -> None:
    """Points added in two steps, ragged ones too, equal all at once; the old state stays as it was."""
    t = tasks()
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    old = model.encode(t.xc[:, :3], t.yc[:, :3])
    before = model.predict(old, t.xt)
    new = model.update(old, t.xc[:, 3:], t.yc[:, 3:], mask)
    whole = torch.cat([torch.ones(3, 3, dtype=torch.bool), mask], 1)
    same(model.predict(new, t.xt), model(t.xc, t.yc, t.xt, whole))
    same(model.predict(old, t.xt), before, rtol=0, atol=0)
    assert differ(model.predict(new, t.xt), before)


def exact_updates_keep_no_points(model: NeuralProcess) -> None:
    """A state kept by an exact model does not hold the context; a recomputing one does."""
    t = tasks()
    assert (model.encode(t.xc, t.yc).context is None) == (model.traits["update"] == "exact")


def old_inputs_do_not_matter(model: NeuralProcess) -> None:
    """A state is a value: overwriting the arrays it was made of changes nothing."""
    t = tasks()
    mask = torch.arange(7) < torch.tensor([7, 4, 2])[:, None]
    xc, yc, mask_c, xt = t.xc.clone(), t.yc.clone(), mask.clone(), t.xt.clone()
    state = model.encode(xc, yc, mask_c)
    law, expected = model.predict(state, xt), model(t.xc, t.yc, t.xt, mask)
    xc.zero_(), yc.zero_(), mask_c.logical_not_(), xt.zero_()
    same(law, expected)
    torch.testing.assert_close(law.joint_log_prob(t.yt), expected.joint_log_prob(t.yt), **CLOSE)
    whole = torch.cat([mask, torch.ones(3, 5, dtype=torch.bool)], 1)
    together = model(torch.cat([t.xc, t.xt], 1), torch.cat([t.yc, t.yt], 1), t.xt, whole)
    same(model.predict(model.update(state, t.xt, t.yt), t.xt), together)


def chunks_do_not_matter(model: NeuralProcess) -> None:
    """Conditioning 1, 7 or all points at a time gives one result."""
    t = tasks(nc=15)
    whole = model(t.xc, t.yc, t.xt)
    with torch.no_grad():
        for size in (1, 7, 15):
            model.chunk_size = size
            same(model(t.xc, t.yc, t.xt), whole)
    model.chunk_size = 4096


def remove_undoes_update(model: NeuralProcess) -> None:
    """Where removal is exact, a state from which points were removed predicts as if they had never come."""
    t = tasks(nc=24)  # of far fewer, some narrow pool would lose all it had seen, and a softmax would refuse
    state = model.encode(t.xc, t.yc)
    left = model.remove(state, t.xc[:, :4], t.yc[:, :4])
    same(model.predict(left, t.xt), model(t.xc[:, 4:], t.yc[:, 4:], t.xt), rtol=1e-7, atol=1e-8)
    # all points of one task, three of another, none of the third
    left = model.remove(state, t.xc, t.yc, torch.arange(24) < torch.tensor([24, 3, 0])[:, None])
    nothing = model.encode(t.xc[:, :0], t.yc[:, :0])
    assert all(torch.equal(a[0], b[0]) for a, b in zip(tensors(left), tensors(nothing), strict=True))
    assert torch.equal(model.predict(left, t.xt).mean[2], model.predict(state, t.xt).mean[2])


def merge_is_encode(model: NeuralProcess) -> None:
    """States of two parts, ragged ones too, merged in either order, are that of all points; points can leave it."""
    t = tasks(nc=24)  # see `remove_undoes_update`
    mask = torch.arange(24) < torch.tensor([24, 15, 10])[:, None]
    parts = [(t.xc[:, i], t.yc[:, i], mask[:, i]) for i in (slice(0, 10), slice(10, 24))]
    a, b = (model.encode(*part) for part in parts)
    laws = [model.predict(state, t.xt) for state in (a, b)]
    both, whole = model.merge(a, b), model.encode(t.xc, t.yc, mask)
    assert torch.equal(both.n, whole.n)
    same(model.predict(both, t.xt), model.predict(whole, t.xt))
    same(model.predict(model.merge(b, a), t.xt), model.predict(both, t.xt), rtol=0, atol=0)
    same(model.predict(model.remove(both, *parts[1]), t.xt), laws[0], rtol=1e-7, atol=1e-8)
    for state, law in zip((a, b), laws, strict=True):  # states are values
        same(model.predict(state, t.xt), law, rtol=0, atol=0)


def decay_weighs_points(model: NeuralProcess) -> None:
    """Points seen twice that count half are points seen once; later points count in full, and old states stay."""
    t = tasks()
    mask = torch.arange(7) < torch.tensor([7, 3, 0])[:, None]
    once, new = model.encode(t.xc, t.yc, mask), model.encode(t.xt, t.yt)
    before, twice = model.predict(once, t.xt), model.merge(once, once)
    half = model.decay(twice, 0.5)
    assert torch.equal(half.n, twice.n)
    same(model.predict(half, t.xt), before)
    same(model.predict(model.update(half, t.xt, t.yt), t.xt), model.predict(model.merge(once, new), t.xt))
    same(model.predict(model.decay(twice, 1), t.xt), model.predict(twice, t.xt), rtol=0, atol=0)
    faded = model.decay(model.decay(once, 0.5), 0.25)
    same(model.predict(faded, t.xt), model.predict(model.decay(once, 0.125), t.xt))
    now = model.predict(model.update(faded, t.xt, t.yt), t.xt)
    assert now.mean.isfinite().all() and differ(now, model.predict(model.merge(once, new), t.xt))
    same(model.predict(once, t.xt), before, rtol=0, atol=0)


def float64_states_serve_float32_models(model: NeuralProcess) -> None:
    """A predictor makes states that points can leave in float64, whatever the model's own precision."""
    t = tasks()
    state = model.encode(t.xc, t.yc)
    expected = model.predict(state, t.xt).mean
    model.float()
    pred = model.predict(state, t.xt.float())
    assert pred.mean.dtype == torch.float32
    torch.testing.assert_close(pred.mean.double(), expected, rtol=1e-3, atol=1e-4)
    told = model.update(state, t.xt.float(), t.yt.float())
    assert model.predict(told, t.xt.float()).mean.isfinite().all()
    model.double()


def every_parameter_learns(model: NeuralProcess) -> None:
    """Gradients are finite and reach every parameter."""
    model.zero_grad()
    loss = (elbo if isinstance(model, LatentNeuralProcess) else loglik)(model, tasks(), 2).total
    loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name


def padding_is_inert_in_training(model: NeuralProcess) -> None:
    """Every objective takes tasks whose padding holds NaN, with finite gradients."""
    t, keep = tasks(), torch.arange(5) < torch.tensor([5, 2, 1])[:, None]
    xt, yt = (torch.where(keep[..., None], v, torch.full_like(v, torch.nan)) for v in (t.xt, t.yt))
    batch = t._replace(xt=xt, yt=yt, mask_t=keep)
    for name, objective in OBJECTIVES.items():
        if refusal(model, name) is None:
            model.zero_grad()
            loss = objective(model, batch, 2, False).total
            loss.backward()
            assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters()), name


def training_law_is_the_prediction(model: NeuralProcess) -> None:
    """What is trained is what is used, however context and targets are computed; decoding comes after training."""
    if model.decoding is not None:
        return
    t = tasks()
    keep_c, keep_t = (torch.arange(n) < torch.tensor([n, 2, 0])[:, None] for n in (7, 5))
    for batch in (t, t._replace(mask_c=keep_c, mask_t=keep_t), t._replace(xc=t.xc[:, :0], yc=t.yc[:, :0])):
        given = batch.xc, batch.yc, batch.xt, batch.mask_c, batch.mask_t
        found = []
        for law in (model.training_law, model):
            with collect_penalties() as terms:
                found.append((law(*given).joint_log_prob(batch.yt, batch.mask_t), sum(terms)))
        torch.testing.assert_close(*found, **CLOSE)


def train_is_eval(model: NeuralProcess) -> None:
    """Training mode changes no likelihood."""
    t = tasks()
    a = model.eval()(t.xc, t.yc, t.xt).joint_log_prob(t.yt)
    b = model.train()(t.xc, t.yc, t.xt).joint_log_prob(t.yt)
    model.eval()
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def joint_as_claimed(model: NeuralProcess) -> None:
    """A factorised law's joint density is the product of its marginals; a joint one's is not."""
    t = tasks()
    pred = model(t.xc, t.yc, t.xt)
    gap = (pred.joint_log_prob(t.yt) - pred.marginal_log_prob(t.yt).sum(-1)).abs().max()
    assert (gap > 1e-6) == model.traits["joint"], gap


def state_size_as_claimed(model: NeuralProcess) -> None:
    """A constant state has the same bytes after any number of points, any other grows."""
    with torch.no_grad():
        sizes = [nbytes(model.encode(t.xc, t.yc)) for t in (tasks(nc=4), tasks(nc=64))]
    assert (sizes[0] == sizes[1]) == model.traits["constant_state"], sizes


def low_precision_state(model: NeuralProcess) -> None:
    """Under bfloat16 autocast likelihoods and exactly updated sums stay in float32 or better."""
    model = model.float()
    t = tasks()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        state = model.encode(t.xc.float(), t.yc.float())
        pred = model.predict(state, t.xt.float())
    if model.traits["constant_state"]:
        summed = [t for t in tensors(state) if t.is_floating_point() and t.ndim != 3]  # latents [b, m, dz] are not
        assert summed and all(t.dtype in (torch.float32, torch.float64) for t in summed)
    assert pred.mean.dtype == pred.stddev.dtype == torch.float32
    assert pred.joint_log_prob(t.yt.float()).isfinite().all()
    with torch.no_grad():  # a state outlives the autocast it was made under
        assert model.predict(state, t.xt.float()).mean.isfinite().all()
    model.double()


# With shapes and types of all calls checked, which takes half of the time of a check; the others make the same calls.
TYPED = {padding_is_inert, small_contexts_work, update_is_encode, padding_is_inert_in_training, low_precision_state}

ALWAYS = [
    depends_on_context,
    permutation_invariant,
    targets_do_not_interact,
    translation_equivariant,
    tasks_do_not_interact,
    padding_is_inert,
    small_contexts_work,
    update_is_encode,
    old_inputs_do_not_matter,
    exact_updates_keep_no_points,
    every_parameter_learns,
    padding_is_inert_in_training,
    train_is_eval,
    training_law_is_the_prediction,
    joint_as_claimed,
    state_size_as_claimed,
    low_precision_state,
]
