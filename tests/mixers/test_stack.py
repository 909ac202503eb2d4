"""Switches of the stack: weights shared by all layers, activation checkpointing, and what layers add to a loss."""

import pytest
import torch

import npexp
from npexp.layers.penalty import collect_penalties, collecting, penalise
from npexp.mixers import base
from npexp.mixers.dense import Dense
from npexp.objectives import loglik
from tests.contracts.checks import MIXERS, differ, same, tasks, tiny_mixer

SHARED = sorted({name for name, _ in MIXERS})


def gradients(model, batch):
    model.zero_grad()
    loglik(model, batch, 1).total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("mixer", SHARED)
def test_checkpointing_changes_no_gradient(mixer):
    """What the backward pass computes again is what the forward pass computed, statistics in training included."""
    found = []
    for checkpoint in (False, True):
        model = tiny_mixer(mixer, None, checkpoint=checkpoint).train()
        found.append((gradients(model, tasks()), dict(model.named_buffers())))
    (plain, buffers), (again, others) = found
    for name in plain:
        torch.testing.assert_close(plain[name], again[name], rtol=1e-9, atol=1e-12)
    for name in buffers:
        torch.testing.assert_close(buffers[name], others[name], rtol=1e-9, atol=1e-12)


def test_checkpointing_computes_again(monkeypatch):
    calls = []
    read = Dense.read

    def counted(self, q, state):
        calls.append(1)
        return read(self, q, state)

    monkeypatch.setattr(Dense, "read", counted)
    for checkpoint, times in ((False, 1), (True, 2)):
        calls.clear()
        model = tiny_mixer("dense", None, checkpoint=checkpoint).train()
        loglik(model, tasks(), 1).total.backward()
        assert len(calls) == times * 3  # three layers, which context and targets pass together
    calls.clear()
    with torch.no_grad():
        model(*tasks()[:3])
    assert len(calls) == 3 + 2  # three layers for the targets, two for the context


@pytest.mark.parametrize("mixer", SHARED)
def test_shared_layers_are_one_block_many_times(mixer):
    """Parameters of one layer, or of one for each turn, whatever the depth."""
    model, single = (tiny_mixer(mixer, None, share_layers=shared, **deep) for shared, deep in ((True, {}), (False, {})))
    turns = base.find_mixer(mixer)[0].period(base.Site(2, 64, 4, 0))
    once = npexp.build("tnp", dx=2, dy=2, mixer=mixer, num_layers=turns)
    deep = npexp.build("tnp", dx=2, dy=2, mixer=mixer, num_layers=5, share_layers=True)
    assert [p.shape for p in deep.parameters()] == [p.shape for p in once.parameters()]
    blocks = [len({id(block) for block in net.stack.blocks}) for net in (model, single)]
    assert blocks == [turns, 3]
    t = tasks()
    assert differ(model(t.xc, t.yc, t.xt), model(t.xc, t.yc + 1, t.xt))
    grads = gradients(model, t)
    assert all(g.isfinite().all() for g in grads.values())


def test_shared_layers_equal_layers_with_the_same_weights():
    shared, apart = (tiny_mixer("dense", None, share_layers=s) for s in (True, False))
    apart.load_state_dict(
        {
            name: shared.state_dict()[name.replace(f".{i}.", ".0.") if "blocks" in name else name]
            for name in apart.state_dict()
            for i in [name.split(".")[2] if "blocks" in name else ""]
        }
    )
    t = tasks()
    same(shared(t.xc, t.yc, t.xt), apart(t.xc, t.yc, t.xt))


class Costly(Dense):
    """Asks for small outputs, of context and of targets."""

    joins = False

    def read(self, q, state):
        out = super().read(q, state)
        if self.training:
            penalise(out.square().mean())
        return out


def test_penalties_join_the_training_loss_only(monkeypatch):
    monkeypatch.setitem(base._REGISTRY, "costly", (Costly, {}))
    model, t = tiny_mixer("costly", "read"), tasks()
    plain = loglik(model.eval(), t, 1)
    assert "penalty" not in plain.parts
    loss = loglik(model.train(), t, 1)
    assert loss.parts["penalty"] > 0
    torch.testing.assert_close(loss.total, plain.total + loss.parts["penalty"])
    with collect_penalties() as terms:
        model(t.xc, t.yc, t.xt)
        assert collecting()
    assert len(terms) == 5 and not collecting()
    torch.testing.assert_close(torch.stack(terms).sum(), loss.parts["penalty"])


@pytest.mark.parametrize("mixer", ["local_block", "swin", "memory_compressed", "cluster_former", "axial", "glam"])
def test_layers_that_take_turns_do_so_with_shared_weights(mixer):
    """The last of four shared layers, an odd one, is the second, and not the first."""
    model = tiny_mixer(mixer, None, share_layers=True, num_layers=4)
    blocks = model.stack.blocks
    assert blocks[3] is blocks[1] and blocks[2] is blocks[0] and blocks[1] is not blocks[0]
