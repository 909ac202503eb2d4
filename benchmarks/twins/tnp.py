"""TNP-D and TNP-A (Nguyen & Grover 2022, arXiv 2207.04179): one Transformer encoder over a masked square of all points.

The layers are PyTorch's own, as released. Without gradients in eval mode these take PyTorch's fast path, which holds
the whole square of every head; `torch.backends.mha.set_fastpath_enabled(False)` makes them several times faster there.
"""

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from benchmarks.twins.base import Twin, linear, mlp, norm
from npexp.batch import TaskBatch
from npexp.mixers.stack import Block
from npexp.models.transformer import TransformerNP


class TNPD(Twin):
    """All nc + nt points attend to the nc context points: O((nc + nt)^2) time and memory."""

    def __init__(self, model: TransformerNP):
        super().__init__(model)
        self.embedder = mlp(model.embedding.embed_context)
        layers = [_layer(block) for block in model.stack.blocks]
        self.encoder = nn.TransformerEncoder(layers[0], len(layers))
        self.encoder.layers = nn.ModuleList(layers)

    def forward(self, xc: Tensor, yc: Tensor, xt: Tensor) -> Normal:
        """The law of each target alone."""
        nc, nt = xc.shape[1], xt.shape[1]
        points = torch.cat([_points(xc, yc), _points(xt)], 1)
        mask = torch.full((nc + nt, nc + nt), -torch.inf, dtype=xc.dtype, device=xc.device)
        mask[:, :nc] = 0.0
        return self.law(self.encoder(self.embedder(points), mask=mask)[:, nc:])


class TNPA(TNPD):
    """nc + 2 nt points: context, realised targets, queries. Sampling runs all of it again for every target."""

    def loss(self, batch: TaskBatch) -> Tensor:
        """Minus the log-likelihood of a target given those before it, averaged."""
        return -self.chain(*batch[:4]).log_prob(batch.yt).sum(-1).mean()

    def chain(self, xc: Tensor, yc: Tensor, xt: Tensor, yt: Tensor) -> Normal:
        """p(y_i | C, y_<i) at every i, teacher-forced."""
        nc, nt = xc.shape[1], xt.shape[1]
        points = torch.cat([_points(xc, yc), _points(xt, yt), _points(xt)], 1)
        mask = torch.zeros(nc + 2 * nt, nc + 2 * nt, dtype=xc.dtype, device=xc.device)
        mask[:, nc:] = -torch.inf
        later = torch.full((nt, nt), -torch.inf, dtype=xc.dtype, device=xc.device)
        mask[nc : nc + nt, nc : nc + nt] = later.triu(1)
        mask[nc + nt :, nc : nc + nt] = later.triu(0)
        return self.law(self.encoder(self.embedder(points), mask=mask)[:, nc + nt :])

    def sample(self, xc: Tensor, yc: Tensor, xt: Tensor, n: int) -> Tensor:
        """Draws `[n, b, nt, dy]` in the caller's order: nt passes over n copies of the batch."""
        xc, yc, xt = (v.repeat(n, 1, 1) for v in (xc, yc, xt))
        y = yc.new_zeros(*xt.shape[:2], yc.shape[2])
        for i in range(xt.shape[1]):
            y[:, i] = self.chain(xc, yc, xt, y).sample()[:, i]
        return y.unflatten(0, (n, -1))


def _points(x: Tensor, y: Tensor | None = None) -> Tensor:
    """(x, y), or (x, 0)."""
    return torch.cat([x, torch.zeros_like(x[..., :1]) if y is None else y], -1)


def _layer(block: Block) -> nn.TransformerEncoderLayer:
    ours, ff = block.mixer.attention, block.ff
    made = nn.TransformerEncoderLayer(
        ours.to_out.in_features, ours.num_heads, ff.up.out_features, dropout=0.0, batch_first=True
    )
    projection = linear(ours.to_q, ours.to_kv)
    made.self_attn.in_proj_weight, made.self_attn.in_proj_bias = projection.weight, projection.bias
    made.self_attn.out_proj = linear(ours.to_out)
    made.linear1, made.linear2 = linear(ff.up), linear(ff.down)
    made.norm1, made.norm2 = norm(block.norm), norm(block.norm_ff)
    return made
