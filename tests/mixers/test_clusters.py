"""Routing, Cluster-Former and clustered attention against spelled-out twins, and how centroids move."""

import pytest
import torch
from torch.nn.functional import normalize

from npexp.errors import ConfigError
from npexp.layers.centroids import Centroids
from npexp.layers.penalty import collect_penalties
from npexp.mixers.base import Site, make_mixer
from npexp.mixers.stack import Stack
from tests.contracts import checks
from tests.contracts.checks import CLOSE, tiny_mixer
from tests.contracts.units import rows, tokens

SITE = Site(dx=1, dz=16, num_heads=2, layer=0)
SIZES = (41, 17, 1, 0)
ROUTES = {"num_centroids": 3, "window": 5}


def unit(name, layer=0, **settings):
    torch.manual_seed(0)
    return make_mixer(name, SITE._replace(layer=layer), settings).double()


def project(mixer, ctx, q):
    """Queries, keys and values, `[b, h, n, dh]`."""
    a = mixer.attention
    weights = (a.to_q.weight, *a.to_kv.weight.chunk(2))
    return [(h @ w.mT).unflatten(-1, (2, 8)).transpose(1, 2) for h, w in zip((q.h, ctx.h, ctx.h), weights, strict=True)]


def agree(mixer, naive, who):
    """Values and gradients of a mixer and its twin, a function of (mixer, ctx, q) that returns merged heads."""
    ctx, q = tokens("cluster_former", SIZES)
    h = ctx.h.clone().requires_grad_()
    ctx = ctx._replace(h=h)
    q, real = (ctx, ctx.mask) if who == "context" else (q, torch.ones(q.h.shape[:2], dtype=torch.bool))
    found = mixer.read(q, mixer.summarise(ctx)[0])[real]
    expected = mixer.attention.to_out(naive(mixer, ctx, q).transpose(1, 2).flatten(2))[real]
    torch.testing.assert_close(found, expected, **CLOSE)
    w = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).double()
    wanted = (h, *mixer.attention.parameters())
    grads = (torch.autograd.grad((out * w).sum(), wanted) for out in (found, expected))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def softmax_over(chosen, q, k, v):
    """What one query `[dh]` reads from the chosen keys."""
    return (k[chosen] @ q / 8**0.5).softmax(0) @ v[chosen] if len(chosen) else 0 * q


def routing_naive(mixer, ctx, q):
    qs, k, v = project(mixer, ctx, q)
    out = []
    for b, n in enumerate(ctx.n.tolist()):
        for head in range(2):
            mu = mixer.centroids.mu[head]
            score = (normalize(k[b, head, :n], dim=-1) @ mu.mT).mT.tolist()
            lists = [sorted(range(n), key=lambda j, s=s: -s[j])[: mixer.window] for s in score]
            for row in qs[b, head]:
                out.append(softmax_over(lists[int((mu @ row).argmax())], row, k[b, head], v[b, head]))
    return torch.stack(out).view(qs.shape)


@pytest.mark.parametrize("who", ["context", "targets"])
def test_routing_reads_what_the_twin_reads(who):
    agree(unit("routing", **ROUTES), routing_naive, who)


def test_lists_of_two_contexts_merge_exactly():
    """In any split, with pads, and bit for bit the same lists; of equal keys those that came first stay."""
    mixer, (ctx, q) = unit("routing", **ROUTES), tokens("routing", SIZES)
    ctx = ctx._replace(h=ctx.h.index_copy(1, torch.tensor([30]), ctx.h[:, 2:3]))  # twins in the first task
    whole, _ = mixer.summarise(ctx)
    state, _ = mixer.summarise(rows(ctx, slice(0)))
    for part in (slice(0, 1), slice(1, 20), slice(20, 20), slice(20, 41)):
        state, _ = mixer.extend(state, rows(ctx, part))
    torch.testing.assert_close(state.score, whole.score, **CLOSE)
    torch.testing.assert_close(mixer.read(q, state), mixer.read(q, whole), **CLOSE)
    assert torch.equal(state.lists.real, whole.lists.real)
    checks.chunks_do_not_matter(tiny_mixer("routing", "raw", mixer_args=ROUTES))
    checks.permutation_invariant(tiny_mixer("routing", "read", mixer_args=ROUTES))
    checks.targets_do_not_interact(tiny_mixer("routing", "read", mixer_args=ROUTES))


def test_ties_are_broken_by_arrival():
    mixer = unit("routing", num_centroids=1, window=2)
    k = torch.ones(1, 2, 5, 8).double() * torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])[:, None]  # one direction
    state = mixer._choose(k, k, None, mixer.centroids.mu[None])
    assert state.lists.k[0, 0, 0, :, 0].tolist() == [1.0, 2.0]


def test_queries_commit_to_their_centroid():
    mixer, (ctx, _) = unit("routing", commitment=0.5, **ROUTES), tokens("routing", SIZES)
    with collect_penalties() as terms:
        mixer.read(ctx, mixer.summarise(ctx)[0])
    q = normalize(project(mixer, ctx, ctx)[0], dim=-1)
    gap = (q[:, :, :, None] - mixer.centroids.mu[None, :, None]).square().sum(-1).amin(-1)
    expected = 0.5 * gap.transpose(1, 2)[ctx.mask].mean()
    torch.testing.assert_close(terms[0], expected, rtol=1e-6, atol=0)  # norms are 1 in float32
    terms[0].backward()
    assert mixer.attention.to_q.weight.grad.abs().max() > 0 and mixer.attention.to_kv.weight.grad is None


def test_centroids_follow_what_is_near_them():
    torch.manual_seed(0)
    centroids, h = Centroids(2, 3, 4, decay=0.9).double(), torch.randn(2, 2, 9, 4).double()
    mask, old = torch.arange(9) < torch.tensor([[9], [4]]), centroids.mu.clone()
    h[1, :, 4:] = torch.nan
    expected = old.clone()
    for s in range(2):
        unit_rows = normalize(torch.cat([h[0, s], h[1, s, :4]]), dim=-1)
        nearest = (unit_rows @ old[s].mT).argmax(-1)
        for c in set(nearest.tolist()):
            expected[s, c] = normalize(0.9 * old[s, c] + 0.1 * unit_rows[nearest == c].mean(0), dim=-1)
    h = h.nan_to_num(7.0)
    with collect_penalties():
        torch.testing.assert_close(centroids(h, mask)[1], old)  # what this pass uses does not change under it
    torch.testing.assert_close(centroids(h, mask)[0], old)  # nor what a repetition in the backward pass uses
    with collect_penalties():
        held = centroids(h, mask)
        assert torch.equal(centroids(h, mask), held)  # one loss, one set of centroids
    with collect_penalties():
        centroids(h, mask)
    torch.testing.assert_close(held[0], expected, **CLOSE)  # a state keeps what it was made with
    centroids.eval()
    with collect_penalties():
        now = centroids(h, mask)
        assert torch.equal(centroids(-h, mask), now)
    assert not torch.equal(now, held)


@pytest.mark.parametrize("share_layers", [False, True])
@pytest.mark.parametrize("name", ["routing", "cluster_former", "clustered"])
def test_checkpointing_keeps_gradients_though_centroids_move(name, share_layers):
    """Also where a loss passes the same centroids many times, in its layers and in two encodings."""
    (ctx, q), (other, _) = tokens(name, (21, 9)), tokens(name, (12, 12))
    settings, grads = {"decay": 0.1} | (ROUTES if name == "routing" else {"num_clusters": 3}), []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        switches = {"share_layers": share_layers, "checkpoint": checkpoint}
        stack = Stack(1, name, 2, 16, 2, 16, settings, **switches).double()
        with collect_penalties() as terms:
            losses = [stack.read(q._replace(n=c.n), stack.summarise(c)).square().sum() for c in (ctx, other)]
            loss = sum(losses) + sum(terms)
        grads.append(torch.autograd.grad(loss, list(stack.parameters()), allow_unused=True))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_all_passes_of_a_loss_move_the_centroids():
    torch.manual_seed(0)
    centroids, h = Centroids(1, 1, 4, decay=0.9).double(), torch.randn(2, 1, 1, 9, 4).double()
    expected = centroids.mu[0, 0]
    for one in h:
        expected = normalize(0.9 * expected + 0.1 * normalize(one[0, 0], dim=-1).mean(0), dim=-1)
    with collect_penalties():
        for one in h:
            centroids(one)
    with collect_penalties():
        torch.testing.assert_close(centroids(h[0])[0, 0, 0], expected, **CLOSE)


def cluster_former_naive(mixer, ctx, q):
    qs, k, v = project(mixer, ctx, q)
    mu, out = mixer.centroids.mu[0], torch.zeros_like(qs)
    for b, n in enumerate(ctx.n.tolist()):
        cluster = (normalize(ctx.h[b, :n], dim=-1) @ mu.mT).argmax(-1).tolist()
        for i, h in enumerate(q.h[b]):
            for c in (mu @ h).argsort(descending=True).tolist():
                members = [j for j in range(n) if cluster[j] == c]
                if members:
                    before = max(sum(j <= float(q.pos[b, i]) for j in members) - 1, 0) // mixer.chunk * mixer.chunk
                    for head in range(2):
                        chosen = members[before : before + mixer.chunk]
                        out[b, head, i] = softmax_over(chosen, qs[b, head, i], k[b, head], v[b, head])
                    break
    return out


@pytest.mark.parametrize(("num_clusters", "chunk"), [(3, 4), (40, 3), (1, 10**6)])
@pytest.mark.parametrize("who", ["context", "targets"])
def test_clusters_read_what_the_twin_reads(num_clusters, chunk, who):
    """Clusters of several chunks, more clusters than points, and one of everything."""
    agree(unit("cluster_former", 1, num_clusters=num_clusters, chunk=chunk), cluster_former_naive, who)


def test_cluster_former_has_windows_in_even_layers():
    mixer, local, (ctx, q) = unit("cluster_former", 2, window=4), unit("local", window=4), tokens("local", SIZES)
    local.attention.load_state_dict(mixer.attention.state_dict())
    torch.testing.assert_close(mixer.read(q, mixer.summarise(ctx)[0]), local.read(q, local.summarise(ctx)[0]))


def clustered_naive(mixer, ctx, q):
    qs, k, v = project(mixer, ctx, q)
    members_of = project(mixer, ctx, ctx)[0]
    out = torch.zeros_like(qs)
    for b, n in enumerate(ctx.n.tolist()):
        for head in range(2):
            own, mu = members_of[b, head, :n], list(mixer.centroids.mu[head])

            def nearest(row, among, mu=mu):
                cosine = (torch.stack(mu) @ row).tolist()
                return max(among, key=cosine.__getitem__)

            every = range(len(mu))
            for _ in range(mixer.iterations):
                label = [nearest(row, every) for row in own]
                for c in set(label):
                    mu[c] = normalize(normalize(own[[a == c for a in label]], dim=-1).sum(0), dim=-1)
            label = [nearest(row, every) for row in own]
            for i, row in enumerate(qs[b, head] if n else []):
                mean = own[[a == nearest(row, set(label)) for a in label]].mean(0)
                out[b, head, i] = softmax_over(range(n), mean, k[b, head], v[b, head])
    return out


@pytest.mark.parametrize(("num_clusters", "iterations"), [(3, 0), (4, 2), (1, 1), (50, 1)])
@pytest.mark.parametrize("who", ["context", "targets"])
def test_clustered_reads_what_the_twin_reads(num_clusters, iterations, who):
    """More clusters than points, too; with one of them the mean query reads for all."""
    agree(unit("clustered", num_clusters=num_clusters, iterations=iterations), clustered_naive, who)


def test_queries_that_are_the_same_are_clustered_exactly():
    mixer, dense, (ctx, q) = unit("clustered"), unit("dense"), tokens("clustered", (41, 41))
    dense.attention.load_state_dict(mixer.attention.state_dict())
    with torch.no_grad():
        mixer.attention.to_q.weight[:, 1:], dense.attention.to_q.weight[:, 1:] = 0, 0
    ctx, q = (t._replace(h=torch.cat([torch.ones_like(t.h[..., :1]), t.h[..., 1:]], -1)) for t in (ctx, q))
    torch.testing.assert_close(mixer.read(q, mixer.summarise(ctx)[0]), dense.read(q, dense.summarise(ctx)[0]), **CLOSE)


@pytest.mark.parametrize(
    ("name", "setting"),
    [("routing", "num_centroids"), ("routing", "window"), ("cluster_former", "chunk"), ("clustered", "num_clusters")],
)
def test_impossible_sizes_are_refused(name, setting, untyped):
    with pytest.raises(ConfigError, match=f"{setting} to be an integer, at least 1, got 0"):
        unit(name, **{setting: 0})


@pytest.mark.parametrize("name", ["routing", "cluster_former", "clustered"])
@pytest.mark.parametrize("layer", [0, 1])
def test_impossible_decays_are_refused_in_every_layer(name, layer, untyped):
    for decay in (-0.1, 1, 1.0, 2, float("nan"), "0.9", None):
        with pytest.raises(ConfigError, match="decay to be a number, at least 0 and below 1, got"):
            unit(name, layer, decay=decay)
