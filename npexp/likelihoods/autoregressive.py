"""A joint law from any model that can take in its own outputs: the chain rule over targets or over blocks of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from npexp.errors import ConfigError, UnknownNameError, at_least
from npexp.likelihoods.base import Predictive, check_outputs
from npexp.ops.tree import tree_map

Order = Literal["given", "random", "distance"]
ORDER_SEED = 0


@dataclass(frozen=True)
class Decoding:
    """How the targets of a task are decoded one after the other.

    Args:
        block_size: targets predicted together, then taken in; 1 is the plain chain rule (Bruinsma et al. 2023,
            arXiv 2303.14468), more is the AND scheme of Feng et al. 2024 (arXiv 2305.14567), for joint likelihoods.
        order: "given", as the caller has them; "random", fixed by the position in the task; "distance", far apart
            first, each target as far as possible from those before it (the maximin order of Guinness 2018).
        num_orders: the law is an equal mixture over that many orders; each costs as much again. Orders beyond the
            first are random.
        num_anchors: decodes only that many targets in this way, then all others at once given them; None for all.
    """

    block_size: int = 1
    order: Order = "given"
    num_orders: int = 1
    num_anchors: int | None = None

    def __post_init__(self):
        at_least("block_size", self.block_size, 1)
        at_least("num_orders", self.num_orders, 1)
        if self.num_anchors is not None:
            at_least("num_anchors", self.num_anchors, 0)
        if self.order not in get_args(Order):
            raise UnknownNameError("order", str(self.order), get_args(Order))


class Verbs(NamedTuple):
    """What a model lends to the chain rule.

    Args:
        dy: output size.
        predict: (state, xt, mask_t) to the law of the targets in one step.
        absorb: (state, x, y, mask) to a state that has taken in decoded targets.
        score: (state, xt, yt, mask_t) to log p(yt_i | state, yt_1, ..., yt_i-1) summed over i, `[b]`, in one pass; None
            where that takes a pass per block.
    """

    dy: int
    predict: Callable[[Any, Tensor, Tensor | None], Predictive]
    absorb: Callable[[Any, Tensor, Tensor, Tensor | None], Any]
    score: Callable[[Any, Tensor, Tensor, Tensor | None], Tensor] | None = None


class Autoregressive(Predictive):
    """p(y_1, ..., y_nt) = prod_k p(block k | context, blocks before k), each factor the model's own prediction.

    Scores are teacher-forced, samples take in their own draws; both walk the same blocks. Draws come back in the
    caller's order. Moments, quantiles and `marginal_log_prob` are those of each target given the context alone.

    A score costs nt / block_size predictions and updates, n draws the same on n times as many tasks. Memory grows with
    a block and the state, not with nt; seeded draws hold n^2 values for each output of a block. The model computes when
    the law is asked: train it in between and the law changes.

    Args:
        verbs: the model's.
        state: what the model has seen; left as it is.
        xt: target inputs, `[b, nt, dx]`.
        mask_t: real targets, `[b, nt]`.
        decoding: how.
    """

    def __init__(
        self,
        verbs: Verbs,
        state: Any,
        xt: Float[Tensor, "b nt dx"],
        mask_t: Bool[Tensor, "b nt"] | None,
        decoding: Decoding,
    ):
        if not isinstance(decoding, Decoding):
            raise ConfigError(f"expected a npexp.likelihoods.Decoding, got {decoding!r}: make one")
        self.verbs, self.state, self.decoding = verbs, state, decoding
        # asked later than made: the caller may have overwritten what was given
        self.xt, self.mask_t = xt.clone(), None if mask_t is None else mask_t.clone()
        self._alone: Predictive | None = None
        kind = xt.device.type
        self._modes = torch.is_grad_enabled(), kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

    @contextmanager
    def _as_made(self) -> Iterator[None]:
        """The model runs when the law is asked, but as it would have when the law was made."""
        grad, kind, autocast, dtype = self._modes
        with torch.set_grad_enabled(grad), torch.autocast(kind, dtype, enabled=autocast):
            yield

    @property
    def alone(self) -> Predictive:
        """The model's law in one step."""
        if self._alone is not None:
            return self._alone
        with self._as_made():
            alone = self.verbs.predict(self.state, self.xt, self.mask_t)
        if not torch.is_inference_mode_enabled():  # whose tensors could never be trained on
            self._alone = alone
        return alone

    @property
    def mean(self) -> Float[Tensor, "b nt dy"]:
        """Mean of each output given the context."""
        return self.alone.mean

    @property
    def stddev(self) -> Float[Tensor, "b nt dy"]:
        """Standard deviation of each output given the context."""
        return self.alone.stddev

    def marginal_log_prob(self, yt: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt"]:
        """log p(y_i | context) of each target."""
        return self.alone.marginal_log_prob(yt)

    def cdf(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """P(Y <= y | context) of each output."""
        return self.alone.cdf(y)

    def icdf(self, level: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Quantiles given the context."""
        return self.alone.icdf(level)

    def crps(self, y: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt dy"]:
        """Of each output given the context."""
        return self.alone.crps(y)

    def joint_log_prob(
        self, yt: Float[Tensor, "b nt dy"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Float[Tensor, " b"]:
        """The chain rule; over several orders, the log of the mean density."""
        check_outputs(yt, self.xt.new_empty(*self.xt.shape[:2], self.verbs.dy), mask_t)
        mask = self.mask_t if mask_t is None else mask_t
        if mask is not None:
            yt = torch.where(mask[..., None], yt, torch.zeros_like(yt))
        with self._as_made():
            scores = torch.stack([self._score(order, yt, mask) for order in self._orders(mask)])
        return scores.logsumexp(0) - np.log(len(scores))

    def sample(self, n: int, seed: int | None = None) -> Float[Tensor, "n b nt dy"]:
        """Draws made block by block, `n / num_orders` in each order, by up to n copies of the state.

        What `num_orders` leaves over goes to orders at random, with a seed to the first ones.
        """
        orders = self._orders(self.mask_t)
        if n == 0 or self.xt.shape[1] == 0:
            return self.xt.new_empty(n, *self.xt.shape[:2], self.verbs.dy)
        turn = list(range(len(orders))) if seed is not None else torch.randperm(len(orders)).tolist()
        shares = [n // len(orders) + (turn[i] < n % len(orders)) for i in range(len(orders))]
        with self._as_made():
            draws = [
                self._roll_out(order, share, None if seed is None else [seed, i])
                for i, (order, share) in enumerate(zip(orders, shares, strict=True))
                if share
            ]
        return torch.cat(draws)

    def _blocks(self) -> list[slice]:
        """Steps along an order; the last one takes all targets that are no anchors."""
        nt, size = self.xt.shape[1], self.decoding.block_size
        anchors = nt if self.decoding.num_anchors is None else min(self.decoding.num_anchors, nt)
        blocks = [slice(i, min(i + size, anchors)) for i in range(0, anchors, size)]
        return blocks if anchors == nt else [*blocks, slice(anchors, nt)]

    def _score(self, order: Tensor | None, yt: Tensor, mask: Tensor | None) -> Tensor:
        x, y, mask = (_take(v, order) for v in (self.xt, yt, mask))
        if self.verbs.score is not None and self.decoding.block_size == 1 and self.decoding.num_anchors is None:
            return self.verbs.score(self.state, x, y, mask)
        state, total = self.state, x.new_zeros(x.shape[0])
        blocks = self._blocks()
        for block in blocks:
            now = (x[:, block], y[:, block], None if mask is None else mask[:, block])
            total = total + self.verbs.predict(state, now[0], now[2]).joint_log_prob(now[1], now[2])
            if block != blocks[-1]:
                state = self.verbs.absorb(state, *now)
        return total

    def _roll_out(self, order: Tensor | None, n: int, seed: list[int] | None) -> Tensor:
        b = self.xt.shape[0]
        x, mask = _take(self.xt, order), _take(self.mask_t, order)
        copies = torch.arange(n * b, device=x.device)  # every draw has a state of its own: task 0's n draws come first
        x, mask, state = (tree_map(lambda t: t.repeat_interleave(n, 0), v) for v in (x, mask, self.state))
        blocks, draws = self._blocks(), []
        for k, block in enumerate(blocks):
            now = (x[:, block], None if mask is None else mask[:, block])
            law = self.verbs.predict(state, *now)
            if seed is None:
                y = law.sample(1)[0]
            else:  # the noise of draw i for every task, where `sample` would give all copies the same
                step_seed = int(np.random.SeedSequence([*seed, k]).generate_state(1)[0])
                y = law.sample(n, step_seed)[copies % n, copies]
            draws.append(y)
            if block != blocks[-1]:
                state = self.verbs.absorb(state, now[0], y, now[1])
        y = torch.cat(draws, 1).unflatten(0, (b, n)).transpose(0, 1)
        if order is None:
            return y
        return torch.empty_like(y).scatter_(2, order[..., None].expand_as(y), y)

    def _orders(self, mask: Tensor | None) -> list[Tensor | None]:
        """Indices `[b, nt]` that bring targets into each order, padded ones last; None leaves them as they are."""
        b, nt = self.xt.shape[:2]
        rng = np.random.default_rng(ORDER_SEED)
        orders: list[Tensor | None] = []
        for i in range(self.decoding.num_orders):
            kind = self.decoding.order if i == 0 else "random"
            if kind == "given":
                orders.append(None)
            elif kind == "distance":
                orders.append(_spread(self.xt, mask))
            else:  # one fixed number per position, whatever the task and however many follow
                key = torch.as_tensor(np.random.default_rng(rng.integers(2**32)).random(nt), device=self.xt.device)
                key = key.expand(b, nt) if mask is None else torch.where(mask, key, 2.0)
                orders.append(key.argsort(dim=1, stable=True))
        return orders


def _take(rows: Tensor | None, order: Tensor | None) -> Tensor | None:
    if rows is None or order is None:
        return rows
    return rows.gather(1, order if rows.ndim == 2 else order[..., None].expand_as(rows))


def _spread(x: Float[Tensor, "b nt dx"], mask: Bool[Tensor, "b nt"] | None) -> Int[Tensor, "b nt"]:
    """The maximin order: first the target nearest the centre, then always the one farthest from all before; O(nt^2)."""
    real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
    x = torch.where(real[..., None], x, torch.zeros_like(x))
    centre = x.sum(1, keepdim=True) / real.sum(1)[:, None, None].clamp_min(1)
    score = -(x - centre).square().sum(-1)
    gap = torch.full_like(score, torch.inf)
    order = []
    for _ in range(x.shape[1]):
        score = torch.where(real, score, torch.full_like(score, -torch.inf))  # padded targets come when nothing is left
        chosen = _first_unused(score, order)
        order.append(chosen)
        gap = torch.minimum(gap, (x - x.gather(1, chosen[:, None, None].expand(-1, 1, x.shape[2]))).square().sum(-1))
        score = gap
    return torch.stack(order, 1) if order else x.new_zeros(x.shape[:2], dtype=torch.long)


def _first_unused(score: Tensor, used: list[Tensor]) -> Tensor:
    """The best slot not used yet; slots without a score come last, in their own order."""
    if used:
        score = score.scatter(1, torch.stack(used, 1), torch.nan)
    score = torch.where(score == -torch.inf, torch.full_like(score, torch.finfo(score.dtype).min), score)
    return score.nan_to_num(nan=-torch.inf, posinf=torch.finfo(score.dtype).max).argmax(1)
