"""Mixtures of feed-forward experts, without a limit on what each takes."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, one_hot

from npexp.errors import at_least
from npexp.layers.conditional import Conditional
from npexp.layers.mlp import Activation, FeedForward
from npexp.layers.penalty import penalise


class MixtureOfExperts(Conditional):
    """Mixture of experts: sum_{e in top-k} g_e FF_e(h), the k experts of a row being those its router likes best.

    Dropless: every row gets its experts, however many rows want the same, since with a limit on what an expert takes
    rows would compete. With k = 1 the gate g is the router's probability, otherwise the k probabilities are divided by
    their sum. Routing is in float32 or better. O(k n dz dim) plus O(n e dz) for e experts.

    Args:
        dz: width of the tokens.
        dim: hidden width of each expert.
        activation: of the experts.
        num_experts: e.
        top_k: experts per row.
        balance: weight of the load-balance loss e sum_e f_e P_e over real rows, which is 1 when experts are used
            evenly: f_e is the share of rows that like expert e best and P_e their mean probability of it.

    Raises:
        ConfigError: fewer experts than a row needs.
    """

    def __init__(self, dz: int, dim: int, activation: Activation, num_experts: int, top_k: int, balance: float):
        super().__init__()
        at_least("num_experts", num_experts, top_k)
        self.top_k, self.balance = top_k, at_least("balance", balance, 0.0)
        self.router = nn.Linear(dz, num_experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(dz, dim, activation) for _ in range(num_experts))

    @property
    def idle(self) -> int:
        expert = sum(p.numel() for p in self.experts[0].parameters())
        return (len(self.experts) - self.top_k) * expert

    def forward(self, h: Float[Tensor, "b n dz"], mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b n dz"]:
        """Row-wise; only real rows count in the loss."""
        rows = h.flatten(0, 1)
        chosen, gates = self._route(rows, None if mask is None else mask.flatten())
        order = chosen.flatten().argsort(stable=True)
        sizes = one_hot(chosen.flatten(), len(self.experts)).sum(0).tolist()
        shares = rows[order // self.top_k].split(sizes)
        # experts that nobody wants are called too, so that distributed training finds a gradient, of 0
        done = torch.cat([expert(share) for expert, share in zip(self.experts, shares, strict=True)])
        done = done[order.argsort()].unflatten(0, (-1, self.top_k))
        return (gates[..., None].to(done.dtype) * done).sum(1).view(h.shape)

    def _route(
        self, rows: Float[Tensor, "r dz"], mask: Bool[Tensor, " r"] | None
    ) -> tuple[Int[Tensor, "r k"], Float[Tensor, "r k"]]:
        """Each row's experts and their gates; hands over the load-balance loss."""
        dtype = torch.promote_types(rows.dtype, torch.float32)
        with torch.autocast(rows.device.type, enabled=False):
            likes = linear(rows.to(dtype), self.router.weight.to(dtype)).softmax(-1)
            gates, chosen = likes.topk(self.top_k)
            counted = likes.new_ones(likes.shape[0]) if mask is None else mask.to(dtype)
            counted = counted / counted.sum().clamp_min(1)
            best = one_hot(chosen[:, 0], len(self.experts)).to(dtype)
            penalise(self.balance * len(self.experts) * ((counted @ best) * (counted @ likes)).sum())
            return chosen, gates if self.top_k == 1 else gates / gates.sum(-1, keepdim=True)
