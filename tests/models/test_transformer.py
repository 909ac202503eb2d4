"""Training of Transformer neural processes: context and targets in one pass, or the context in chunks."""

from npexp.mixers.linear import Linear
from npexp.objectives import loglik
from tests.contracts.checks import tasks, tiny_mixer


def test_chunks_come_before_one_pass(monkeypatch):
    """One layer could do either; in one pass memory would grow with the context."""
    model, sizes, summarise = tiny_mixer("linear", "read", num_layers=1).train(), [], Linear.summarise

    def noted(self, ctx, carry=None):
        sizes.append(ctx.h.shape[1])
        return summarise(self, ctx, carry)

    monkeypatch.setattr(Linear, "summarise", noted)
    assert model.stack.joins
    plain = loglik(model, tasks(), 1).total
    assert sizes == [7]
    sizes.clear()
    model.train_chunk_size = 3
    assert abs(loglik(model, tasks(), 1).total - plain) < 1e-12
    assert max(sizes) == 3
