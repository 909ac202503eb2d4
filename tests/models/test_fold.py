"""Training on a context chunk by chunk: the plain gradients, in memory that does not grow with the context."""

import sys
import weakref

import pytest
import torch
from torch import distributed as dist
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import npexp
from npexp.cli import main
from npexp.errors import ConfigError
from npexp.objectives import elbo
from tests.contracts.checks import MIXERS, MODELS, every_parameter_learns, tasks, tiny, tiny_mixer

RAW = [name for name, wiring in MIXERS if wiring == "raw"]
NAMED = ["cmanp", "linear_tnp_raw", "hypermixer_tnp_raw", "rmnp"]
ROUTING = "routing"  # of constant state, but only keys that are nearest to something matter, and a chunk cannot know


def foldable(model, name=""):
    """Whether a model can: all whose states are of constant size, less one; the others say who can."""
    assert model.foldable == (model.traits["constant_state"] and name != ROUTING)
    if not model.foldable:
        with pytest.raises(ConfigError, match="use cmanp, a gridded model, 'tnp' with context 'raw'"):
            model.train_chunk_size = 4
        assert model.train_chunk_size is None
    return model.foldable


def gradients(model, t, mask=None, size=None):
    """The likelihood, and its gradients by the context and every weight."""
    model.train_chunk_size = size
    x, y = (v.detach().requires_grad_() for v in (t.xc, t.yc))
    score = model.train()(x, y, t.xt, mask).joint_log_prob(t.yt).sum() / t.yt.numel()
    found = torch.autograd.grad(score, [x, y, *model.parameters()], allow_unused=True)
    model.train_chunk_size = None
    return [score.detach(), *found]


def gradients_as_ever(model):
    """For chunks that divide the context, that do not, or are larger; for ragged tasks, some or all of them empty."""
    t = tasks(nc=11)
    ragged = torch.arange(11) < torch.tensor([11, 6, 0])[:, None]
    for mask, size in ((None, 1), (None, 12), (ragged, 4), (ragged, 6), (torch.zeros_like(ragged), 4)):
        for a, b in zip(gradients(model, t, mask, size), gradients(model, t, mask), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_models(name):
    model = tiny(name)
    if foldable(model):
        gradients_as_ever(model)
        model.train_chunk_size = 3
        every_parameter_learns(model)


@pytest.mark.parametrize("mixer", RAW)
def test_gradients_of_mixers(mixer):
    model = tiny_mixer(mixer, "raw", num_layers=2)
    if foldable(model, mixer):
        gradients_as_ever(model)


@pytest.mark.parametrize("settings", [{"sort": True}, {"mixer": "linear", "context": "read"}])
def test_who_cannot(settings):
    """What keeps its points, because of an order or because the context reads itself."""
    assert not foldable(tiny("cmanp" if "sort" in settings else "tnp", **settings))
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        tiny("cnp").train_chunk_size = 0


def test_gradients_of_the_elbo():
    """Where a state is extended by points with gradients of their own."""
    model, t = tiny("np"), tasks(nc=11)
    found = []
    for size in (None, 4):
        model.train_chunk_size = size
        torch.manual_seed(0)
        found.append(torch.autograd.grad(elbo(model, t, 2).total, list(model.parameters())))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def long_tasks(n, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    x = 4 * torch.rand(1, n + 16, 1, generator=g, dtype=torch.float64) - 2
    y = (3 * x).sin() + 0.1 * torch.randn(x.shape, generator=g, dtype=torch.float64)
    x, y = x.to(dtype), y.to(dtype)
    return npexp.TaskBatch(x[:, 16:], y[:, 16:], x[:, :16], y[:, :16])


def default(name):
    """As shipped, but for fewer layers: tests are of chunks."""
    torch.manual_seed(0)
    return npexp.build(name, dx=1, dy=1, num_layers=2)


def relative(a, b):
    """Distance of two gradients, in lengths of the second."""
    a, b = (torch.cat([g.double().flatten() for g in grads if g is not None]) for grads in (a, b))
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", NAMED)
def test_gradients_in_float32(name):
    """2,000 points: within 1e-5 of the plain gradient, and no farther than that from the exact one."""
    model = default(name)
    plain, folded = (gradients(model, long_tasks(2000), size=size) for size in (None, 300))
    exact = gradients(model.double(), long_tasks(2000, torch.float64))
    assert relative(folded, plain) < 1e-5
    assert relative(folded, exact) < 1.5 * relative(plain, exact) + 1e-6


@pytest.mark.parametrize("name", NAMED)
def test_gradients_are_repeatable(name):
    model, t = default(name), long_tasks(500)
    for a, b in zip(*(gradients(model, t, size=128) for _ in range(2)), strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("name", NAMED)
def test_autocast(name):
    """Chunks are computed again in the precision of the forward pass, and weights keep their gradients."""
    model, t = default(name), long_tasks(500)
    found = []
    for size in (None, 128):
        model.train_chunk_size = size
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            score = model(t.xc, t.yc, t.xt).joint_log_prob(t.yt).mean()
        score.backward()
        assert all(p.grad is not None for p in model.parameters())
        found.append([p.grad for p in model.parameters()])
    assert relative(*found) < 0.03  # bfloat16 has 8 bits, and sums of it are in another order


def test_frozen_encoders():
    """Only what follows the summary learns."""
    model, t = tiny("cnp"), tasks(nc=11)
    for encoder in model.encoders:
        encoder.requires_grad_(False)
    found = []
    for model.train_chunk_size in (None, 4):
        score = model(t.xc, t.yc, t.xt).joint_log_prob(t.yt).sum()
        found.append(torch.autograd.grad(score, list(model.head.parameters())))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_gradients_of_gradients_are_refused():
    model, t = default("rmnp"), long_tasks(20)
    model.train_chunk_size = 8
    score = model(t.xc, t.yc, t.xt).joint_log_prob(t.yt).sum()
    (grad, *_) = torch.autograd.grad(score, list(model.memory.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


class Live(TorchDispatchMode):
    """Bytes of tensors made inside it that are alive at the same time, at most."""

    def __init__(self):
        super().__init__()
        self.now, self.peak, self.seen = 0, 0, weakref.WeakSet()

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # as in npexp.cost

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        old = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in old:
                storage = t.untyped_storage()
                self._change(storage.nbytes())
                weakref.finalize(storage, self._change, -storage.nbytes())
        return out

    def _change(self, nbytes):
        self.now += nbytes
        self.peak = max(self.peak, self.now)


def memory(model, n, size):
    """Bytes that the forward pass keeps for the backward pass, beside weights and data; the most alive at any time."""
    t = long_tasks(n)
    model.train_chunk_size = size
    given = {v.untyped_storage().data_ptr() for v in (*t[:4], *model.parameters(), *model.buffers())}
    kept = {}

    def keep(v):
        storage = v.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage.nbytes()
        return v

    with Live() as live:
        with saved_tensors_hooks(keep, lambda v: v):
            score = model(t.xc, t.yc, t.xt).joint_log_prob(t.yt).sum()
        total = sum(kept.values())
        score.backward()
    return total, live.peak


@pytest.mark.parametrize("name", NAMED)
def test_memory_does_not_grow(name):
    """Four times as many points: not a byte more is kept, and no more is alive while it is computed again."""
    model = default(name)
    small, large = (memory(model, n, 256) for n in (1024, 4096))
    assert small == large
    plain = [memory(model, n, None) for n in (1024, 4096)]
    assert min(b / a for a, b in zip(*plain, strict=True)) > 2, "the measurement does not see what is kept"


@pytest.mark.parametrize("name", NAMED)
def test_distributed(name, tmp_path):
    """Every weight reports its gradient, once: DDP would refuse the second step otherwise."""
    model, t = default(name), long_tasks(100)
    expected = gradients(model, t)[3:]
    model.train_chunk_size = 32
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(model)
        for _ in range(2):
            model.zero_grad()
            (wrapped(t.xc, t.yc, t.xt).joint_log_prob(t.yt).sum() / t.yt.numel()).backward()
            assert relative([p.grad for p in model.parameters()], expected) < 1e-5
    finally:
        dist.destroy_process_group()


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    """Two steps with chunks of the context and without give the same weights; who cannot is refused."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["npexp"])
    words = ["fit", *("--config", "base", "--config", "data/sawtooth", "--config"), "model/linear_tnp_raw"]
    words += ["--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    words += ["--data.num_val_batches=1", "--data.num_test_batches=1", "--figures.num_tasks=0"]
    chunks = "--model.train_chunk_size=4"
    assert main([*words, "--name=plain"]) == main([*words, "--name=chunks", chunks]) == 0
    found = [
        torch.load(tmp_path / f"runs/{name}/0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("chunks", "plain")
    ]
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)  # Adam divides by gradients that may be tiny
    words[words.index("model/linear_tnp_raw")] = "model/tnp"
    assert main([*words, chunks]) == 2
    assert "TNP cannot train on a context in chunks" in capsys.readouterr().err
