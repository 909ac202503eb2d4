"""Neural processes as scikit-learn regressors."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from npexp.batch import TaskBatch, pad_points
from npexp.errors import ConfigError, DataError, DivergenceError, at_least
from npexp.likelihoods import Predictive
from npexp.objectives import loglik
from npexp.predict import Predictor, load_predictor
from npexp.registry import build
from npexp.scaling import Scaling
from npexp.schedules import WarmupCosine

LATENT_SAMPLES = 8


class NPRegressor(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """A neural process with scikit-learn's interface: learns from many small data sets, then conditions on a new one.

    There are three ways to use it, the first two being what a neural process is for:

        NPRegressor("tnp", steps=5000).fit(tasks).condition(X, y).predict(X_new, return_std=True)
        NPRegressor(ckpt="runs/gp_rbf_tnp").fit(X, y).predict(X_new)     # trained by `npexp fit`; fit only conditions
        NPRegressor().fit(X, y).predict(X_new)                           # one data set, as for any other regressor

    With one data set alone there is nothing to learn but that data set: the model is trained to predict random parts
    of it from other parts, then conditioned on all of it. `fit` always starts from new weights, or from the checkpoint;
    `condition` keeps them. Inputs and outputs are standardised by the data that was trained on, all tasks together:
    what models want to know of them, such as the `domain` of convolutional and gridded ones, is in standard deviations,
    and likelihoods of bounded outputs or classes do not fit.

    Args:
        model: name of a model, any of `npexp.available_models()`.
        model_args: sizes and other constructor arguments of the model, by name.
        ckpt: a checkpoint or a run folder of `npexp fit`, in place of training.
        steps: training steps.
        batch_size: splits into context and targets per step.
        max_points: of a larger data set, a random part of this size is used per split.
        learning_rate: of Adam at the start; it falls to zero.
        random_state: seeds weights and training; an integer makes them reproducible.
        device: where to compute.

    Attributes:
        predictor_: the trained `npexp.Predictor`, in the units of the data.
        state_: what the model has seen of the data set it is conditioned on.
        loss_curve_: training loss of each step, in nats per target and standardised output.
        n_features_in_: number of inputs.
        feature_names_in_: names of the inputs, where the data had column names.
    """

    def __init__(
        self,
        model: str = "cnp",
        *,
        model_args: dict[str, Any] | None = None,
        ckpt: str | Path | None = None,
        steps: int = 300,
        batch_size: int = 16,
        max_points: int = 128,
        learning_rate: float = 2e-3,
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
    ):
        self.model = model
        self.model_args = model_args
        self.ckpt = ckpt
        self.steps = steps
        self.batch_size = batch_size
        self.max_points = max_points
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any = None) -> "NPRegressor":
        """Learns from tasks, or from one data set and conditions on it.

        Args:
            X: inputs `[n, dx]`; or, without y, an iterable of tasks (X_i, y_i) of any sizes.
            y: outputs `[n]` or `[n, dy]`.

        Raises:
            DataError: no tasks, or tasks with different numbers of outputs.
            ConfigError: tasks beside a checkpoint, or an impossible setting.
            DivergenceError: the loss became NaN or infinite.
        """
        if y is not None:
            X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64)
            self._load() if self.ckpt is not None else self._train([(X, y)])
            return self._condition(X, y)
        if hasattr(X, "shape"):
            raise DataError("NPRegressor requires y to be passed, but the target y is None; or fit((X_i, y_i) tasks)")
        if self.ckpt is not None:
            raise ConfigError(f"expected tasks or a checkpoint, got both: leave out ckpt={self.ckpt!r} to train")
        tasks = []
        for task in X:
            if not isinstance(task, tuple | list) or len(task) != 2:
                raise DataError(
                    f"expected tasks (X_i, y_i), got a {type(task).__name__}: pass one data set as fit(X, y)"
                )
            reset = not tasks  # the first task says how many inputs there are
            tasks.append(validate_data(self, *task, reset=reset, multi_output=True, y_numeric=True, dtype=np.float64))
        if len({y.shape[1:] for _, y in tasks}) != 1:
            raise DataError("expected one or more tasks (X_i, y_i) with the same outputs, got none or different ones")
        self._train(tasks)
        return self._condition(tasks[0][0][:0], tasks[0][1][:0])

    def condition(self, X: Any, y: Any) -> "NPRegressor":
        """Predicts for this data set from now on; the weights stay as they are.

        Args:
            X: inputs `[n, dx]`.
            y: outputs `[n]` or `[n, dy]`.
        """
        if self.ckpt is not None and not hasattr(self, "predictor_"):
            self._load()
        check_is_fitted(self, "predictor_")
        data = validate_data(self, X, y, reset=False, multi_output=True, y_numeric=True, dtype=np.float64)
        return self._condition(*data)

    def predict(self, X: Any, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Mean at X, `[n]` or `[n, dy]` as y was; before `condition`, of a data set without points.

        Args:
            X: inputs `[n, dx]`.
            return_std: also gives the standard deviation, of the same shape.
        """
        law = self._law(X)
        mean = self._output(law.mean[0])
        return (mean, self._output(law.stddev[0])) if return_std else mean

    def sample_y(self, X: Any, n_samples: int = 1, random_state: int | np.random.RandomState | None = 0) -> np.ndarray:
        """Draws at X, `[n, n_samples]` or `[n, dy, n_samples]`, coherent across X where the model is joint.

        Args:
            X: inputs `[n, dx]`.
            n_samples: number of draws.
            random_state: seeds the draws.
        """
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        draws = self._law(X).sample(at_least("n_samples", n_samples, 1), seed)[:, 0]  # [n_samples, n, dy]
        return np.moveaxis(self._output(draws), 0, -1)

    def _law(self, X: Any) -> Predictive:
        check_is_fitted(self, "state_")
        X = validate_data(self, X, reset=False, dtype=np.float64)
        return self.predictor_.predict(self.state_, X)

    def _output(self, values: torch.Tensor) -> np.ndarray:
        y = values.double().cpu().numpy()
        return y[..., 0] if self.y_ndim_ == 1 else y

    def _condition(self, X: np.ndarray, y: np.ndarray) -> "NPRegressor":
        self.y_ndim_ = y.ndim
        self.state_ = self.predictor_.condition(X, _columns(y))
        return self

    def _load(self) -> None:
        self.predictor_ = load_predictor(self.ckpt, self.device)
        self.n_features_in_ = self.predictor_.model.dx
        self.loss_curve_ = []

    def _train(self, tasks: list[tuple[np.ndarray, np.ndarray]]) -> None:
        for name, low in {"steps": 0, "batch_size": 1, "max_points": 2, "learning_rate": 0.0}.items():
            at_least(name, getattr(self, name), low)
        xs, ys = [x for x, _ in tasks], [_columns(y) for _, y in tasks]
        scaling = Scaling(*_moments(np.concatenate(xs)), *_moments(np.concatenate(ys)))
        data = [(scaling.x(torch.tensor(x)), scaling.y(torch.tensor(y))) for x, y in zip(xs, ys, strict=True)]
        device = torch.device(self.device)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        rng = np.random.default_rng(seed)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):  # the caller's generator stays as it is
            torch.manual_seed(seed)
            net = build(self.model, dx=xs[0].shape[1], dy=ys[0].shape[1], **(self.model_args or {})).to(device)
            net.adapt(torch.cat([x for x, _ in data]).to(device))
            optimizer = torch.optim.Adam(net.parameters(), lr=self.learning_rate)
            schedule = WarmupCosine(optimizer, total_steps=max(self.steps, 1))
            self.loss_curve_ = []
            for step in range(self.steps):
                loss = loglik(net, self._splits(data, rng, device), LATENT_SAMPLES).total
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                self.loss_curve_.append(loss.item())
                if not np.isfinite(self.loss_curve_[-1]):
                    raise DivergenceError(f"the training loss is {loss.item()} at step {step}: lower learning_rate")
        if device.type != "mps":  # which has no float64
            net = net.double()
        self.predictor_ = Predictor(net, device, scaling._asdict())

    def _splits(
        self, data: list[tuple[torch.Tensor, torch.Tensor]], rng: np.random.Generator, device: torch.device
    ) -> TaskBatch:
        """Random tasks, each split at random; the share of context points is the same for all."""
        share = rng.random()
        parts: list[list[torch.Tensor]] = [[], [], [], []]
        for i in rng.integers(len(data), size=self.batch_size):
            x, y = data[i]
            order = rng.permutation(len(x))[: self.max_points]
            nc = int(share * len(order))  # less than all: there is always a target
            for part, values in zip(parts, (x[order[:nc]], y[order[:nc]], x[order[nc:]], y[order[nc:]]), strict=True):
                part.append(values)
        (xc, mask_c), (yc, _), (xt, mask_t), (yt, _) = (pad_points(part) for part in parts)
        points = (v.to(device, torch.float32) for v in (xc, yc, xt, yt))
        return TaskBatch(*points, *(None if mask is None else mask.to(device) for mask in (mask_c, mask_t)))


def _columns(y: np.ndarray) -> np.ndarray:
    return y[:, None] if y.ndim == 1 else y


def _moments(values: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each column; 1 in place of the latter where a column is constant."""
    scale = values.std(0)
    varies = scale > 1e-12 * np.abs(values).max(0)  # rounding gives a constant column some deviation
    return values.mean(0).tolist(), np.where(varies, scale, 1.0).tolist()
