"""Neural processes as BoTorch models: acquisition functions of Bayesian optimisation work on them unchanged."""

import copy
import math
import warnings
from typing import Any

import torch
from torch import Tensor

from npexp.errors import ConfigError, DataError, ShapeError, UnsupportedError
from npexp.likelihoods import Predictive
from npexp.likelihoods.pathwise import pathwise, regroup
from npexp.models.base import NeuralProcess, State
from npexp.ops.tree import tree_map
from npexp.predict import Predictor

try:
    with warnings.catch_warnings():  # its import compiles functions in a way that torch has deprecated
        warnings.simplefilter("ignore", DeprecationWarning)
        from botorch.acquisition.objective import PosteriorTransform
        from botorch.models.model import Model
        from botorch.posteriors import Posterior
        from botorch.sampling import MCSampler, SobolQMCNormalSampler
        from botorch.sampling.get_sampler import GetSampler
except ImportError as error:
    raise ConfigError("npexp.botorch needs BoTorch, which is not installed: pip install 'npexp[botorch]'") from error


class NPModel(Model):
    """A trained neural process that has seen a data set, as a `botorch.models.model.Model`.

    Use it where a `SingleTaskGP` would be fitted: there is nothing to fit. Acquisition functions that ask for means,
    variances and draws work as they are (EI, LogEI, UCB, qEI, qLogEI, qUCB, qNEI), and so does the knowledge gradient.
    In a loop, `condition_on_observations` adds a point at the price of the model's `update`.

        model = NPModel(npexp.load_predictor("runs/gp_rbf_rmnp"), train_X, train_Y)
        candidate, value = optimize_acqf(qLogExpectedImprovement(model, train_Y.max()), bounds, q=2, ...)
        model = model.condition_on_observations(candidate, f(candidate))

    A neural process predicts observations: its laws hold the noise it was trained with, and `observation_noise` changes
    nothing. A law that is not normal is kept as it is: analytic acquisition functions read its exact mean and variance,
    those that draw get draws of it, differentiable in X. Points of a q-batch depend on each other where the model is
    joint (`rmnp_joint`, `tnpnd`, `convgnp`, `np`, ...); otherwise they are independent, and a batch is worth more to
    qEI than it should be. Transforms of the posterior are those of BoTorch, of which the weighted sum of outputs wants
    a GP: use an objective such as `LinearMCObjective`.

    Everything is computed in float64, as BoTorch wants it, by a frozen copy of the model.

    Args:
        model: the neural process; or a `Predictor`, whose scaling then gives and takes raw units.
        train_X: inputs seen, `[*batch, n, d]`; n may be 0. Each entry of the batch is a data set of its own.
        train_Y: their outputs, `[*batch, n, m]`.

    Attributes:
        train_inputs: the inputs seen, in a tuple, as GPyTorch has it.
        train_targets: the outputs seen, `[*batch, n]`, or `[*batch, m, n]` where m > 1.

    Raises:
        ConfigError: no neural process.
        ShapeError: inputs or outputs that do not fit it.
        DataError: NaN or infinite values.
    """

    def __init__(self, model: NeuralProcess | Predictor, train_X: Tensor, train_Y: Tensor):
        super().__init__()
        scaling = model.scaling if isinstance(model, Predictor) else None
        net = model.model if isinstance(model, Predictor) else model
        if not isinstance(net, NeuralProcess):
            raise ConfigError(f"expected a NeuralProcess or Predictor, got {type(net).__name__}: npexp.build makes one")
        device = next(net.parameters()).device
        net = copy.deepcopy(net).double().requires_grad_(False)
        # a predictor is no nn.Module: acquisition functions, which move their models to the type of X, leave it alone
        self._predictor = Predictor(net, device, None if scaling is None else scaling._asdict())
        x, y = self._observed(train_X, train_Y)
        shape = _broadcast(x.shape[:-2], y.shape[:-2])
        with torch.no_grad():
            self._remember(net.encode(_rows(x, shape), _rows(y, shape)), shape, train_X, train_Y)

    @property
    def num_outputs(self) -> int:
        """m."""
        return self._predictor.model.dy

    @property
    def batch_shape(self) -> torch.Size:
        """Axes of data sets side by side; none for one data set."""
        return self._shape

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """The law of the observations at X, with one draw of q points being coherent as far as the model is joint.

        Args:
            X: inputs `[*batch, q, d]`; its batch and that of the data sets broadcast.
            output_indices: outputs to keep; None for all.
            observation_noise: of no consequence, see above.
            posterior_transform: applied to the posterior.

        Raises:
            ShapeError: X of another width, without a point, or of a batch that does not broadcast.
            DataError: NaN or infinite inputs.
            UnsupportedError: noise as numbers.
        """
        if isinstance(observation_noise, Tensor):
            raise UnsupportedError("neural processes predict with the noise they were trained with: give True or False")
        x = self._inputs(X)
        if x.shape[-2] == 0:
            raise ShapeError(f"expected X [*batch, q, {x.shape[-1]}] with at least one point, got {list(X.shape)}")
        shape, q, net = _broadcast(x.shape[:-2], self._shape), x.shape[-2], self._predictor.model
        # where targets do not look at each other, those of one data set are asked for together: it is read once
        extra = len(shape) - len(self._shape) if net.consistent and net.decoding is None else 0
        copies, b = math.prod(shape[:extra]), math.prod(shape[extra:])
        x = x.expand(*shape, *x.shape[-2:]).reshape(copies, b, *x.shape[-2:])
        law = net.predict(self._state_of(shape[extra:]), x.transpose(0, 1).flatten(1, 2))
        law = law if copies == 1 else regroup(law, copies, q)
        if self._predictor.scaling is not None:
            law = self._predictor.scaling.law(law)
        posterior = NPPosterior(law, shape, output_indices)
        return posterior if posterior_transform is None else posterior_transform(posterior)

    def condition_on_observations(self, X: Tensor, Y: Tensor, **kwargs: Any) -> "NPModel":
        """The model that has seen these points too; this one stays as it is. Differentiable in X and Y.

        Args:
            X: inputs `[*batch, n, d]`.
            Y: outputs `[*batch, n, m]`; both batches and that of the data sets broadcast.
            kwargs: of no consequence; BoTorch hands over noise here.

        Raises:
            ShapeError: points that do not fit.
            DataError: NaN or infinite values.
        """
        x, y = self._observed(X, Y)
        shape = _broadcast(x.shape[:-2], y.shape[:-2], self._shape)
        state = self._predictor.model.update(self._state_of(shape), _rows(x, shape), _rows(y, shape))
        seen = [
            torch.cat([v.expand(*shape, *v.shape[-2:]) for v in (old, new.to(old))], -2)
            for old, new in ((self.train_inputs[0], X), (self._train_Y, Y))
        ]
        told = copy.copy(self)
        told._remember(state, shape, *seen)
        return told

    def fantasize(
        self, X: Tensor, sampler: MCSampler, observation_noise: Tensor | None = None, **kwargs: Any
    ) -> "NPModel":
        """The models that have seen X `[*batch, n, d]` with outputs drawn by the sampler, on axes in front."""
        noise = True if observation_noise is None else observation_noise
        return self.condition_on_observations(X, sampler(self.posterior(X, observation_noise=noise)))

    def _remember(self, state: State, shape: torch.Size, train_X: Tensor, train_Y: Tensor) -> None:
        self._state, self._shape, self._train_Y = state, shape, train_Y
        self.train_inputs = (train_X,)
        self.train_targets = train_Y[..., 0] if train_Y.shape[-1] == 1 else train_Y.mT

    def _state_of(self, shape: torch.Size) -> State:
        """The state of every data set of this batch, to which that of the model broadcasts."""
        if shape == self._shape:
            return self._state

        return tree_map(lambda t: _rows(t.reshape((*self._shape, *t.shape[1:])), shape, t.ndim - 1), self._state)

    def _observed(self, X: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
        """Points, checked, as the model wants them."""
        x, y = self._inputs(X), self._values("Y", Y, self.num_outputs)
        if x.shape[-2] != y.shape[-2]:
            raise ShapeError(f"expected as many points in X as in Y, got {list(X.shape)} and {list(Y.shape)}")
        scaling = self._predictor.scaling
        return x, y if scaling is None else scaling.y(y)

    def _inputs(self, X: Tensor) -> Tensor:
        x, scaling = self._values("X", X, self._predictor.model.dx), self._predictor.scaling
        return x if scaling is None else scaling.x(x)

    def _values(self, name: str, values: Tensor, size: int) -> Tensor:
        if not isinstance(values, Tensor) or values.ndim < 2 or values.shape[-1] != size:
            got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ShapeError(f"expected {name} to be a tensor [*batch, n, {size}], as the model was built, got {got}")
        values = values.to(self._predictor.device, torch.float64)
        bad = (~values.isfinite()).nonzero()
        if len(bad):
            raise DataError(f"{name} holds NaN or an infinity, first at index {bad[0].tolist()}: leave the point out")
        return values


class NPPosterior(Posterior):
    """A predicted law as BoTorch asks for it: exact moments, and draws that are smooth functions of normal noise.

    Args:
        law: of as many tasks as the batch has entries.
        batch_shape: the batch.
        outputs: those to keep; None for all.
    """

    def __init__(self, law: Predictive, batch_shape: torch.Size, outputs: list[int] | None = None):
        self.law, self.batch_shape, self.outputs = law, batch_shape, outputs
        self._mean = law.mean

    @property
    def device(self) -> torch.device:
        """Where the law is."""
        return self._mean.device

    @property
    def dtype(self) -> torch.dtype:
        """That of the law."""
        return self._mean.dtype

    @property
    def mean(self) -> Tensor:
        """Means, `[*batch, q, m]`."""
        return self._shaped(self._mean)

    @property
    def variance(self) -> Tensor:
        """Variances, `[*batch, q, m]`."""
        return self._shaped(self.law.stddev.square())

    @property
    def base_sample_shape(self) -> torch.Size:
        """One normal number for each output, those left out too, since others may depend on them."""
        return torch.Size([*self.batch_shape, *self._mean.shape[1:]])

    @property
    def batch_range(self) -> tuple[int, int]:
        """All axes but points and outputs."""
        return 0, -2

    def _extended_shape(self, sample_shape: torch.Size = torch.Size()) -> torch.Size:  # noqa: B008
        return sample_shape + self.mean.shape

    def rsample(self, sample_shape: torch.Size | None = None) -> Tensor:
        """Draws, `[*sample_shape, *batch, q, m]`, differentiable in all that the law depends on."""
        sample_shape = torch.Size([1]) if sample_shape is None else sample_shape
        noise = torch.randn(sample_shape + self.base_sample_shape, dtype=self.dtype, device=self.device)
        return self.rsample_from_base_samples(sample_shape, noise)

    def rsample_from_base_samples(self, sample_shape: torch.Size, base_samples: Tensor) -> Tensor:
        """The draws that standard normal numbers `[*sample_shape, *batch, q, m]` stand for."""
        noise = base_samples.to(self._mean).reshape(math.prod(sample_shape), *self._mean.shape)
        return self._shaped(pathwise(self.law, noise), sample_shape)

    def _shaped(self, values: Tensor, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        values = values.reshape(*sample_shape, *self.batch_shape, *values.shape[-2:])
        return values if self.outputs is None else values[..., self.outputs]


@GetSampler.register(NPPosterior)
def _sampler(posterior: NPPosterior, sample_shape: torch.Size, *, seed: int | None = None) -> MCSampler:
    return SobolQMCNormalSampler(sample_shape, seed=seed)


def _broadcast(*shapes: torch.Size) -> torch.Size:
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError as error:
        given = " and ".join(str(list(s)) for s in shapes)
        raise ShapeError(f"expected batches of data sets and of points that broadcast, got {given}") from error


def _rows(values: Tensor, shape: torch.Size, event: int = 2) -> Tensor:
    """`[*batch, ...]` with `event` last axes, as tasks of the batch `shape` in a row: `[b, ...]`."""
    last = values.shape[values.ndim - event :]
    return values.expand((*shape, *last)).reshape((math.prod(shape), *last))
