"""A memory that solves: moments of learned features, read through a bank of ridge regressions."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from npexp.errors import ConfigError, UnknownNameError, at_least
from npexp.layers.basis import Basis
from npexp.layers.experts import Experts
from npexp.layers.mlp import mlp, zero_end
from npexp.layers.moments import Moments, moments, symmetric
from npexp.ops.gaussian import full_precision
from npexp.ops.ridge import ridge, ridge_rows

# Prior standard deviations over the noise's are at most e^4, which bounds the condition of a system by
# 1 + e^8 n |phi|^2, and at least e^-20, where a weight matters to nobody and its gradients are about to leave float32.
MAX_LOG_SCALE, MIN_LOG_SCALE = 4.0, -20.0
MIN_LOG_NOISE = -4.6  # 0.01
LONG = 1000  # points above which training solves in float64 too
FALLS = (-1.4, -0.4)  # log10 of the initial decay of log-amplitudes with the frequency: lengthscales of 0.06 to 0.6
ROUGHEST = 36.0  # of 64 waves; what networks in their place are taken for
MIN_LOG_WEIGHT = -20.0  # of a head by evidence: less is hopeless
DTYPES = {"float64": torch.float64, "float32": torch.float32}
MATERN = [(length, scale) for length in (0.12, 0.2, 0.33, 0.55) for scale in (0.3, 0.8)]  # priors that are not learned
MATERN_NOISE = 0.02
CODE = 8  # numbers by which an inferred prior differs from a mixture of the learned ones


class Sums(NamedTuple):
    """Moments for solving: `g` counts tasks, or tasks and outputs; `o` outputs of each share their priors."""

    gram: Tensor  # [g, m, m], in the precision of the state
    rounding: Tensor  # [g, 1, 1], by which eigenvalues of it may be wrong
    cross: Tensor  # [g, m, o]; from here on in the precision of the solution
    square: Tensor  # [g, o]
    count: Tensor  # [g, 1]
    facts: Tensor  # [g, f], what networks see of them


class Bank(NamedTuple):
    """Posteriors under k priors.

    Args:
        log_amplitude: of the weights, `[g, k, m]`.
        log_noise: `[g, k]`.
        scale: D, `[g, k, m]`.
        weights: posterior means, `[g, k, m, o]`.
        log_det: log |A|, `[g, k]`.
        whiten: L^-1, `[g, k, m, m]`.
        error: mean squared error over the variance of the noise, with the penalty on the weights, `[g, k, o]`.
        evidence: log marginal likelihood up to a constant, `[g, k]`.
    """

    log_amplitude: Tensor
    log_noise: Tensor
    scale: Tensor
    weights: Tensor
    log_det: Tensor
    whiten: Tensor
    error: Tensor
    evidence: Tensor

    @property
    def log_weights(self) -> Tensor:
        """By evidence alone, `[g, k]`."""
        return self.evidence.log_softmax(-1).clamp_min(MIN_LOG_WEIGHT)

    def plus(self, other: "Bank") -> "Bank":
        """All heads of both."""
        return Bank(*(torch.cat(parts, 1) for parts in zip(self, other, strict=True)))


class Solved(NamedTuple):
    """What a state says once it is solved.

    Args:
        gram: G, `[g, m, m]`.
        bank: every head.
        logits: log weights of the heads by evidence, corrected, `[g, k]`.
        code: what the rows are told of the whole context, `[b, dz]`.
    """

    gram: Tensor
    bank: Bank
    logits: Tensor
    code: Tensor


class RidgeMemory(nn.Module):
    """G = sum phi phi', S = sum phi y' and a few scalars: exact inserts and deletes; inference happens at reading.

    `num_priors` learned priors are solved and weighed by their evidences. From these and the residuals a network infers
    `num_refined` better priors, and these are solved too. All heads share the one state, so that more of them cost
    computing only. Solving takes O(k m^3), reading O(k m^2) per target.

    Sums are float64. So are solutions, except in training on contexts of up to 1,000 points, where they have the
    model's precision. Sums in float32 are known up to about 1e-7 trace(G), and priors so wide that this would matter
    are narrowed; removing most of very many points leaves their rounding behind.

    Args:
        basis: phi.
        dy: output size.
        num_priors: learned priors.
        num_refined: inferred priors.
        dz: width of the code.
        dim_hidden: hidden width of the two networks over evidences.
        misfit: whether heads whose errors exceed what they expect say so by larger variances.
        shared_noise: whether outputs share amplitudes, noise and evidence; False gives each output its own, at dy times
            the solves.
        accumulate: dtype of the sums.
        robust: whether eight priors are added that are not learned: Matérn-5/2 functions of four lengthscales and two
            scales, for tasks of another law than those of training. The waves' first frequencies stand for theirs.
        stationary: whether the cosine and the sine of a frequency share their amplitude, so that functions are as
            likely wherever they lie and moving all inputs changes nothing; a last cosine without its sine stays unused.

    Raises:
        UnknownNameError: no such dtype.
        ConfigError: a size below 1, or robust or stationary priors of features that are not waves.
    """

    def __init__(
        self,
        basis: Basis,
        dy: int,
        num_priors: int = 6,
        num_refined: int = 3,
        dz: int = 64,
        dim_hidden: int = 128,
        misfit: bool = True,
        shared_noise: bool = True,
        accumulate: Literal["float64", "float32"] = "float64",
        robust: bool = False,
        stationary: bool = False,
    ):
        super().__init__()
        for wish, name in ((robust, "robust"), (stationary, "stationary")):
            if wish and basis.kind != "fourier":
                raise ConfigError(f"expected basis 'fourier' for {name} priors, got '{basis.kind}': leave {name} out")
        if accumulate not in DTYPES:
            raise UnknownNameError("dtype", accumulate, DTYPES)
        h, r = at_least("num_priors", num_priors, 1), at_least("num_refined", num_refined, 0)
        self.basis, self.num_refined, self.misfit, self.accumulate = basis, r, misfit, DTYPES[accumulate]
        self.groups = 1 if shared_noise else dy
        self.robust, self.stationary = robust, stationary
        if robust:
            self.register_buffer("matern", matern_log_amplitude(basis))
        # priors start from rough functions to smooth ones, with amplitudes of order 1 and a noise of 0.1
        if basis.kind == "fourier":
            roughness = basis.frequencies.detach().norm(dim=-1).repeat(2)[: basis.m - 1]
        else:
            roughness = torch.linspace(0, ROUGHEST, basis.m - 1)  # of networks' outputs, as they will learn it
        fall = torch.logspace(*FALLS, h)[:, None] * roughness
        start = torch.cat([-1.0 - fall, torch.full((h, 1), -0.7)], -1)
        self.log_amplitude = nn.Parameter(start.repeat(self.groups, 1, 1))
        self.log_noise = nn.Parameter(torch.full((self.groups, h), 0.1).log())
        h += len(MATERN) if robust else 0
        self.num_experts = h + r
        outputs = dy // self.groups
        known, per_head = 1 + 2 * outputs + self.groups, outputs + 2
        if r:
            self.infer = zero_end(mlp(known + h * per_head, dim_hidden, r * (CODE + 1 + h), 3, "gelu"))
            self.directions = nn.Parameter(0.1 * torch.randn(r, CODE, basis.m))
        self.gate = zero_end(mlp(known + self.num_experts * per_head, dim_hidden, self.num_experts, 2, "gelu"))
        self.tell = mlp(known + self.num_experts * per_head, dim_hidden, dz, 2, "gelu")

    def pool(
        self, x: Float[Tensor, "b n dx"], y: Float[Tensor, "b n dy"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Moments:
        """The state of these points, O(n m^2)."""
        with full_precision(x):
            dtype = torch.float32 if x.device.type == "mps" else self.accumulate
            return moments(self.basis(x.to(dtype)), y.to(dtype), mask)

    def solve(self, state: Moments) -> Solved:
        """The posteriors of a state, O(k m^3)."""
        with full_precision(state.gram):
            sums = self._sums(state)
            b = state.count.shape[0]  # not len(), which a graph that is being traced would take for a constant
            bank = _posterior(sums, *(v.to(sums.cross.dtype) for v in self._priors(b)))
            if self.num_refined:
                bank = bank.plus(_posterior(sums, *self._refined(sums, bank)))
            seen = self._seen(sums, bank)
            logits = bank.log_weights + self.gate(seen)
            return Solved(sums.gram, bank, logits, self.tell(seen).unflatten(0, (b, self.groups)).sum(1))

    def read(self, solved: Solved, x: Float[Tensor, "b n dx"], rows: bool = False) -> Experts:
        """What each head predicts at x, in the model's dtype: O(n k m^2); with the rows of its covariance if asked."""
        bank, p = solved.bank, self.groups
        with full_precision(x):
            phi = self.basis(x.to(bank.weights.dtype)).repeat_interleave(p, 0)
            means = (phi @ bank.weights.movedim(1, -1).flatten(2)).unflatten(-1, (-1, self.num_experts))  # [g, n, o, k]
            # L^-1 is at most 1, so that variances need no more digits than the model has; means do
            narrow = (v.to(self.precision) for v in (bank.scale, bank.whiten, phi))
            factor = ridge_rows(solved.gram, *narrow)  # [g, k, n, m]
            variance = factor.square().sum(-1).mT[:, :, None]  # [g, n, 1, k], in units of the noise
            log_scales = bank.log_noise[:, None].expand_as(bank.error.mT)
            if self.misfit:
                log_scales = log_scales + 0.5 * bank.error.mT.clamp_min(1).log()
            log_scales = log_scales[:, None]  # [g, 1, o, k]
            logits = solved.logits[:, None, None].expand_as(log_scales)

            def by_output(v: Tensor) -> Tensor:
                return v.unflatten(0, (x.shape[0], p)).movedim(1, 2).flatten(2, 3).to(self.precision)

            found = (by_output(v) for v in (logits, means, log_scales + 0.5 * variance.log1p(), log_scales))
            return Experts.weigh(*found, factor if rows else None)

    @property
    def precision(self) -> torch.dtype:
        """That of the model, or float32 where it has less."""
        return torch.promote_types(self.log_noise.dtype, torch.float32)

    def _sums(self, state: Moments) -> Sums:
        """The state in the precision of the solution, outputs with priors of their own in the place of tasks."""
        dtype, p, b = self.precision, self.groups, state.count.shape[0]
        fast = self.training and torch.is_grad_enabled() and not bool((state.count > LONG).any())
        if not fast and state.gram.device.type != "mps":
            dtype = torch.float64
        gram = symmetric(state.gram, self.basis.m).repeat_interleave(p, 0)
        rounding = (torch.finfo(gram.dtype).eps * gram.diagonal(dim1=-2, dim2=-1).sum(-1)).to(dtype)[:, None, None]
        cross = state.cross.to(dtype).unflatten(-1, (p, -1)).movedim(2, 1).flatten(0, 1)
        total, square = (v.to(dtype).unflatten(-1, (p, -1)).flatten(0, 1) for v in (state.total, state.square))
        n = state.count.to(dtype).repeat_interleave(p, 0)[:, None]
        which = torch.eye(p, dtype=dtype, device=gram.device).repeat(b, 1)
        some = n.clamp_min(1)
        facts = torch.cat([(n + 1).log() / 2, total / some, (square / some + 1e-3).log(), which], -1)
        return Sums(gram, rounding, cross, square, n, facts)

    def _priors(self, b: int) -> tuple[Tensor, Tensor]:
        """Amplitudes and noise of the priors that data have no part in."""
        amplitude, noise = self.log_amplitude.repeat(b, 1, 1), self.log_noise.repeat(b, 1)
        if self.robust:
            fixed = self.matern.expand(len(amplitude), -1, -1)
            amplitude = torch.cat([amplitude, fixed], 1)
            noise = torch.cat([noise, torch.full_like(fixed[..., 0], MATERN_NOISE).log()], 1)
        return self._shared(amplitude, MIN_LOG_SCALE), noise

    def _shared(self, v: Tensor, alone: float) -> Tensor:
        """Numbers of each feature, `[..., m]`; stationary: those of a cosine and its sine are their mean."""
        if not self.stationary:
            return v
        k, m = self.basis.m // 2, self.basis.m
        pairs = (v[..., : m - 1 - k] + v[..., k : m - 1]) / 2
        lone = torch.full_like(v[..., m - 1 - k : k], alone)
        return torch.cat([pairs, lone, pairs, v[..., m - 1 :]], -1)

    def _refined(self, sums: Sums, bank: Bank) -> tuple[Tensor, Tensor]:
        """Amplitudes and noise of the inferred priors: mixtures of the learned ones, moved along learned directions."""
        told = self.infer(self._seen(sums, bank)).to(sums.cross.dtype).unflatten(-1, (self.num_refined, -1))
        code, shift, mix = told.split([CODE, 1, bank.log_noise.shape[1]], -1)
        weight = (bank.log_weights[:, None] + mix).softmax(-1)  # [g, r, h]
        moved = torch.einsum("grc,rcm->grm", code, self._shared(self.directions.to(code.dtype), 0.0))
        return weight @ bank.log_amplitude + moved, (weight @ bank.log_noise[..., None] + shift)[..., 0]

    def _seen(self, sums: Sums, bank: Bank) -> Tensor:
        """What networks see of a solved bank, in their dtype."""
        volume = 0.5 * bank.log_det / sums.count.clamp_min(1)
        parts = [sums.facts, bank.error.log1p().flatten(1), volume, bank.log_weights / 5]
        return torch.cat(parts, -1).to(self.log_noise.dtype)


def matern_log_amplitude(basis: Basis) -> Tensor:
    """Logarithms of the prior standard deviations that make waves Matérn-5/2 functions, `[8, m]`.

    Powers are the spectral density at each wave's frequency, over the density that frequencies start with.
    """
    frequencies, dx, powers = basis.frequencies.detach().double(), basis.frequencies.shape[1], []
    density = (frequencies / basis.extent).norm(dim=-1) ** (1 - dx)  # that of points uniform along each radius
    size = frequencies.norm(dim=-1)
    for length, scale in MATERN:
        waves = (5 / length**2 + size.square()) ** -(2.5 + dx / 2) / density
        still = size.new_full((1,), (5 / length**2) ** -(2.5 + dx / 2) if dx == 1 else 0.0)
        still = still / 2  # the constant is one function, a frequency two that share its power
        power = torch.cat([waves.repeat(2)[: basis.m - 1], still]) / (waves.sum() + still)
        powers.append((scale**2 * power).clamp_min(1e-12))
    return 0.5 * torch.stack(powers).log().float()


def _posterior(sums: Sums, log_amplitude: Tensor, log_noise: Tensor) -> Bank:
    log_noise = MIN_LOG_NOISE + softplus(
        log_noise - MIN_LOG_NOISE, beta=10
    )  # a floor that still lets gradients through
    excess = log_amplitude - log_noise[..., None]
    scale = (MAX_LOG_SCALE - softplus(MAX_LOG_SCALE - excess)).clamp_min(MIN_LOG_SCALE).exp()
    scale = scale * (1 + sums.rounding * scale.square()).rsqrt()  # a prior so narrow that G + D^-2 is positive definite
    weights, log_det, whiten = ridge(sums.gram, sums.cross, scale)
    left = (sums.square[:, None] - (sums.cross[:, None] * weights).sum(-2)).clamp_min(0)
    left = left * (-2 * log_noise).exp()[..., None]  # [g, k, o]
    evidence = -0.5 * left.sum(-1) - left.shape[-1] * (0.5 * log_det + sums.count * log_noise)
    error = left / sums.count.clamp_min(1)[..., None]
    return Bank(log_amplitude, log_noise, scale, weights, log_det, whiten, error, evidence)
