"""CANP and ANP (Kim et al. 2019, arXiv 1901.05761) in the wiring of Lee et al. 2020 (arXiv 2008.02956)."""

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from benchmarks.twins.base import Twin, linear, mlp, norm
from benchmarks.twins.deepsets import LatentTwin, everything, to_targets
from npexp.batch import TaskBatch
from npexp.layers.attentive import AttentivePath, PooledPath
from npexp.layers.blocks import PostNormMAB
from npexp.models import ANP as OurANP
from npexp.models import CANP as OurCANP


class MAB(nn.Module):
    """Post-norm attention with maps of their own for queries, keys and values, and every weight spelt out."""

    def __init__(self, ours: PostNormMAB):
        super().__init__()
        self.num_heads = ours.num_heads
        self.to_q, self.to_k, self.to_v = linear(ours.to_q), linear(ours.to_k), linear(ours.to_v)
        self.to_out, self.norm, self.norm_out = linear(ours.to_out), norm(ours.norm), norm(ours.norm_out)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`[..., nq, dz]`."""
        q, k, v = self.to_q(q), self.to_k(k), self.to_v(v)
        qs, ks, vs = (torch.stack(t.chunk(self.num_heads, -1), -3) for t in (q, k, v))
        weights = (qs @ ks.mT / q.shape[-1] ** 0.5).softmax(-1)
        out = self.norm(q + torch.cat((weights @ vs).unbind(-3), -1))
        return self.norm_out(out + self.to_out(out).relu())


class Cross(nn.Module):
    """Each target's own view of the context."""

    def __init__(self, ours: AttentivePath):
        super().__init__()
        self.embed_value, self.embed_key = mlp(ours.embed_value), mlp(ours.embed_key)
        self.mix, self.cross = MAB(ours.mix_value), MAB(ours.cross)

    def forward(self, xc: Tensor, yc: Tensor, xt: Tensor) -> Tensor:
        """`[..., nt, dz]`."""
        value = self.embed_value(torch.cat([xc, yc], -1))
        return self.cross(self.embed_key(xt), self.embed_key(xc), self.mix(value, value, value))


class Pooled(nn.Module):
    """One view of the context for all."""

    def __init__(self, ours: PooledPath):
        super().__init__()
        self.embed, self.mix, self.after = mlp(ours.embed), MAB(ours.mix), mlp(ours.rho)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """`[..., e]`."""
        h = self.embed(torch.cat([x, y], -1)).relu()
        return self.after(self.mix(h, h, h).mean(-2))


class CANP(Twin):
    """Both views side by side."""

    def __init__(self, model: OurCANP):
        super().__init__(model)
        self.cross, self.pooled = Cross(model.paths.attentive), Pooled(model.paths.pooled)

    def forward(self, xc: Tensor, yc: Tensor, xt: Tensor) -> Normal:
        """The law of each target alone."""
        return self.law(torch.cat([self.cross(xc, yc, xt), to_targets(self.pooled(xc, yc), xt), xt], -1))

    def loss(self, batch: TaskBatch) -> Tensor:
        """Of context and targets."""
        x, y = everything(batch)
        return -self(batch.xc, batch.yc, x).log_prob(y).sum(-1).mean()


class ANP(LatentTwin):
    """Each target's own view, and a latent from the common one."""

    def __init__(self, model: OurANP):
        super().__init__(model)
        self.cross, self.pooled = Cross(model.attentive), Pooled(model.pooled)

    def latent(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean and raw scale of z."""
        return self.pooled(x, y)

    def deterministic(self, xc: Tensor, yc: Tensor, xt: Tensor) -> Tensor:
        """Attention to the context."""
        return self.cross(xc, yc, xt)
