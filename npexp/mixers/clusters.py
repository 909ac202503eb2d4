"""Clusters: rows read what belongs to the centroid they are nearest to."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from npexp.batch import real
from npexp.errors import at_least
from npexp.layers.attention import Attention
from npexp.layers.centroids import Centroids, check_decay, cosines
from npexp.layers.groups import Lists, group_rows, read_lists, sum_members
from npexp.layers.pattern import NOWHERE, Pattern
from npexp.layers.penalty import penalise
from npexp.mixers.base import Carry, Mixer, Site, Tokens, register
from npexp.mixers.pattern import PatternMixer, rows_of
from npexp.mixers.windows import Window
from npexp.ops.attention import attend_part


class Routes(NamedTuple):
    """Each centroid's nearest keys.

    Args:
        lists: keys and values, `[b, h, c, w, dh]`, best first.
        score: cosine of each with its centroid, `[b, h, c, w]`, -inf where there is none.
        mu: the centroids, `[b, h, c, dh]`.
    """

    lists: Lists
    score: Tensor
    mu: Tensor


@register("routing")
class Routing(Mixer):
    """Routing Transformer (Roy et al. 2020, arXiv 2003.05997): rows read the keys nearest to their own centroid.

    Each centroid keeps the `window` context keys of the greatest cosine with it; a row, context or target, reads those
    of the centroid nearest to its query. Lengths of queries and keys count in the softmax only. Centroids are learned
    by online k-means, queries are drawn to theirs by a penalty. Published, centroids choose queries too, which then
    compete and, as targets, would influence each other.

    Points that no centroid chooses are invisible: up to c w of them matter, and up to w all do. Lists of two contexts
    merge exactly, so that with `context="raw"` points are added in O(new). Time O((nc + nt) (c + w) dz), state
    O(c w dz). Without learned structure in the keys "nystrom" or "ist" see more for less.

    Args:
        site: where in the model it sits.
        num_centroids: c, per head.
        window: w, keys per centroid.
        decay: of the centroids' moving average.
        commitment: weight of the squared distance of queries to their centroid in the loss.
    """

    family = "learned"
    paper = "2003.05997"
    published = "n sqrt(n)"
    cost = "(nc + nt) (c + w)"
    update = "layer"
    dense_limit = {"num_centroids": 1}

    def __init__(
        self,
        site: Site,
        num_centroids: int = 16,
        window: int = 64,
        decay: float = 0.999,
        commitment: float = 1e-4,
    ):
        super().__init__()
        self.window, self.commitment = at_least("window", window, 1), at_least("commitment", commitment, 0.0)
        self.attention = Attention(site.dz, site.num_heads)
        self.centroids = Centroids(site.num_heads, num_centroids, site.dz // site.num_heads, decay)

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[Routes, Carry]:
        """The lists of all centroids."""
        kv = self.attention.project(ctx.h)
        return self._choose(kv.k, kv.v, ctx.mask, self.centroids(kv.k, ctx.mask)), carry

    def read(self, q: Tokens, state: Routes) -> Tensor:
        """Attention of each row over its centroid's list."""
        heads = self.attention.query(q.h)
        near, label = cosines(heads, state.mu).max(-1)
        if self.training:
            there = real(q.mask, q.h)[:, None].expand_as(near)
            gap = torch.where(there, 2 - 2 * near, torch.zeros_like(near))  # squared distance on the unit sphere
            penalise(self.commitment * gap.sum() / there.sum().clamp_min(1))
        return self.attention.merge(read_lists(heads, label, state.lists))

    def extend(self, state: Routes, new: Tokens, carry: Carry = None) -> tuple[Routes, Carry]:
        """The best of the old lists and those of the new points."""
        kv = self.attention.project(new.h)
        added = self._choose(kv.k, kv.v, new.mask, state.mu)
        score, index = self._best(torch.cat([state.score, added.score], 3))
        k, v = (
            torch.cat(pair, 3).gather(3, index[..., None].expand(*index.shape, pair[0].shape[-1]))
            for pair in zip(state.lists[:2], added.lists[:2], strict=True)
        )
        return Routes(Lists(k, v, score > -torch.inf), score, state.mu), carry

    def _choose(self, k: Tensor, v: Tensor, mask: Tensor | None, mu: Tensor) -> Routes:
        """The `window` keys `[b, h, n, dh]` nearest to each centroid, filled up with none."""
        score = cosines(k, mu).detach().mT
        if mask is not None:
            score = score.masked_fill(~mask[:, None, None], -torch.inf)
        score, index = self._best(pad(score, (0, self.window), value=-torch.inf))
        index = index.clamp_max(k.shape[2]).flatten(2)[..., None].expand(-1, -1, -1, k.shape[-1])
        k, v = (pad(t, (0, 0, 0, 1)).gather(2, index).unflatten(2, score.shape[2:]) for t in (k, v))
        return Routes(Lists(k, v, score > -torch.inf), score, mu)

    def _best(self, score: Tensor) -> tuple[Tensor, Tensor]:
        """The highest scores and where they are; of equal ones those that came first."""
        score, index = score.sort(dim=-1, descending=True, stable=True)
        return score[..., : self.window].clone(), index[..., : self.window]  # a view would keep all scores alive


class Chunks(NamedTuple):
    """Context points by cluster, each cluster cut into chunks.

    Args:
        lists: keys and values of each chunk, `[b, h, g, c, dh]`.
        codes: cluster and rank of the context points, sorted, `[b, nc]`.
        first: each cluster's first chunk, `[b, k]`.
        mu: the centroids, `[b, 1, k, dz]`.
    """

    lists: Lists
    codes: Tensor
    first: Tensor
    mu: Tensor


CLUSTER = 2**32  # what codes count a cluster; ranks are less


@register("cluster_former")
class ClusterFormer(PatternMixer):
    """Cluster-Former (Wang et al. 2020, arXiv 2009.06097): windows in even layers, clusters of tokens in odd ones.

    An odd layer assigns each token to the nearest of its centroids, sorts the context by (cluster, rank) and cuts
    each cluster into chunks; a row reads one chunk of the nearest cluster that has any, that of its own rank. Windows
    see what is near in x, clusters what is alike. Centroids are learned by online k-means.

    Needs two layers to do what it is for. Time O((nc + nt) (w + c + k) dz) after sorting, state O(nc).

    Args:
        site: where in the model it sits.
        window: w, ranks that a row sees on either side in even layers.
        num_clusters: k.
        chunk: c, points per chunk.
        decay: of the centroids' moving average.
    """

    family = "learned"
    paper = "2009.06097"
    published = "n log(n)"
    cost = "(nc + nt) (w + c + k)"
    dense_limit = {"window": 10**6, "num_clusters": 1, "chunk": 10**6}

    def __init__(self, site: Site, window: int = 16, num_clusters: int = 16, chunk: int = 32, decay: float = 0.99):
        super().__init__(site)
        self.window, self.chunk = at_least("window", window, 1), at_least("chunk", chunk, 1)
        at_least("num_clusters", num_clusters, 1), check_decay(decay)  # in layers without clusters, too
        self.centroids = Centroids(1, num_clusters, site.dz, decay) if site.layer % 2 else None

    @classmethod
    def period(cls, site: Site) -> int:
        return 2

    def patterns(self) -> list[Pattern]:
        return [Window(self.window)]

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[tuple, Carry]:
        """Keys and values in order of rank, or by cluster."""
        if self.centroids is None:
            return super().summarise(ctx, carry)
        there, h = real(ctx.mask, ctx.h), ctx.h[:, None]
        mu = self.centroids(h, ctx.mask)
        clusters = mu.shape[2]
        cluster = torch.where(there, cosines(h, mu).argmax(-1)[:, 0], clusters)
        groups = group_rows(cluster, clusters + 1, min(self.chunk, max(there.shape[1], 1)))
        kv = self.attention.project(ctx.h)
        k, v = (groups.fill(t.transpose(1, 2)).movedim(3, 1) for t in kv[:2])
        known = groups.fill(there)[:, None].expand(k.shape[:-1])
        codes = torch.where(there, _code(cluster, rows_of(ctx).rank), NOWHERE).sort(1)[0]
        first = torch.searchsorted(groups.label, torch.arange(clusters, device=h.device).repeat(len(h), 1))
        return Chunks(Lists(k, v, known), codes, first, mu), carry

    def read(self, q: Tokens, state: tuple) -> Tensor:
        """Attention of each row within its window or its chunk."""
        if self.centroids is None:
            return super().read(q, state)
        near, rank = cosines(q.h[:, None], state.mu)[:, 0], rows_of(q).rank
        every = torch.arange(near.shape[-1] + 1, device=near.device).repeat(len(near), 1)
        start = torch.searchsorted(state.codes, every * CLUSTER)
        cluster = near.masked_fill((start[:, 1:] == start[:, :-1])[:, None], -torch.inf).argmax(-1)
        behind = torch.searchsorted(state.codes, _code(cluster, rank), right=True) - start.gather(1, cluster)
        label = state.first.gather(1, cluster) + (behind - 1).clamp_min(0) // self.chunk
        heads = self.attention.query(q.h)
        return self.attention.merge(read_lists(heads, label[:, None].expand(heads.shape[:3]), state.lists))


def _code(cluster: Tensor, rank: Tensor) -> Tensor:
    """What sorts by cluster, then by doubled rank, which is at least -1."""
    return cluster * CLUSTER + rank + 1


class Clusters(NamedTuple):
    """What each cluster of context queries has read.

    Args:
        mu: direction of its queries, `[b, h, c, dh]`.
        used: which clusters have any, `[b, h, c]`.
        out: attention of their mean over the context, `[b, h, c, dh]`.
    """

    mu: Tensor
    used: Tensor
    out: Tensor


@register("clustered")
class Clustered(Mixer):
    """Clustered attention (Vyas et al. 2020, arXiv 2007.04825): one read of all keys per cluster of context queries.

    Context queries are clustered by direction, k-means within the task, starting from learned centroids; the mean
    query of each cluster reads the whole context, and a row takes what the cluster nearest to its query has read.
    Targets are never clustered. Exact where all queries of a cluster are the same.

    For contexts whose points ask few different questions; rows of a cluster cannot differ in what they read, which
    makes it coarse for regression. Time O((nc + nt) c dz), state O(c dz).

    Args:
        site: where in the model it sits.
        num_clusters: c, per head.
        iterations: steps of k-means in each task.
        decay: of the centroids' moving average.
    """

    asks = False  # a row chooses its cluster, and reads what that has
    family = "learned"
    paper = "2007.04825"
    published = "n c"
    cost = "(nc + nt) c"

    def __init__(self, site: Site, num_clusters: int = 32, iterations: int = 3, decay: float = 0.99):
        super().__init__()
        at_least("num_clusters", num_clusters, 1)
        self.iterations = at_least("iterations", iterations, 0)
        self.attention = Attention(site.dz, site.num_heads)
        self.centroids = Centroids(site.num_heads, num_clusters, site.dz // site.num_heads, decay)

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[Clusters, Carry]:
        """Clusters of the context's queries, and what they read."""
        q, kv = self.attention.query(ctx.h), self.attention.project(ctx.h, ctx.mask)
        q, mu = q.to(kv.k.dtype), self.centroids(q, ctx.mask)
        with torch.autocast(q.device.type, enabled=False):
            rows, size = normalize(q.detach(), dim=-1), mu.shape[2]
            for _ in range(self.iterations):
                total, count = sum_members(rows, cosines(rows, mu).argmax(-1), size, ctx.mask)
                mu = torch.where(count > 0, normalize(total, dim=-1), mu)
            total, count = sum_members(q, cosines(rows, mu).argmax(-1), size, ctx.mask)
            out = attend_part(total / count.clamp_min(1), kv.k, kv.v, kv.mask).out
        return Clusters(mu, count[..., 0] > 0, out), carry

    def read(self, q: Tokens, state: Clusters) -> Tensor:
        """What the cluster nearest to each row has read."""
        near = cosines(self.attention.query(q.h), state.mu).masked_fill(~state.used[:, :, None], -torch.inf)
        label = near.argmax(-1)[..., None].expand(*near.shape[:3], state.out.shape[-1])
        return self.attention.merge(state.out.gather(2, label))
