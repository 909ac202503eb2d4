"""Contextual bandits: agents that choose among arms by what a model expects, and games played side by side.

In each step of a game a context is shown, an agent pulls one arm and sees what that arm pays, and nothing else. All
games of a bandit are played at once, as the tasks of one batch.
"""

from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from npexp.errors import ConfigError, DataError, ShapeError, UnknownNameError, at_least, positive
from npexp.models.base import NeuralProcess, State
from npexp.predict import Predictor

Rule = Literal["ucb", "thompson"]


@runtime_checkable
class Bandit(Protocol):
    """What can be played: any object with these tensors, of `b` games of `n` steps each.

    Attributes:
        contexts: what is shown in each step, `[b, n, dx]`.
        rewards: what each arm would pay, `[b, n, arms]`.
        optimal: what the best arm pays, `[b, n]`; regret is counted from it. Where the laws of the arms are not known,
            `rewards.max(-1).values` counts it from what turned out best.
    """

    contexts: Tensor
    rewards: Tensor
    optimal: Tensor


@runtime_checkable
class Agent(Protocol):
    """Who plays: all games at once, each by what it has seen of that game alone."""

    def begin(self, tasks: int, dx: int, arms: int) -> None:
        """Forgets everything and gets ready for so many games."""

    def act(self, x: Tensor) -> Tensor:
        """The arm for each context `[b, dx]`, int64 `[b]`."""

    def learn(self, x: Tensor, actions: Tensor, rewards: Tensor) -> None:
        """Takes in what the chosen arms paid, `[b]`."""


class Played(NamedTuple):
    """A finished play.

    Args:
        actions: the arms, `[b, n]`.
        rewards: what they paid, `[b, n]`.
        regret: what the best arm would have paid more, `[b, n]`; below zero where luck made up for it.
    """

    actions: Tensor
    rewards: Tensor
    regret: Tensor

    def percent(self, reference: "Played") -> Tensor:
        """Each game's cumulative regret in per cent of the reference's mean, `[b]`: the published score."""
        return 100 * self.regret.sum(1) / reference.regret.sum(1).mean()


def play(
    player: Agent | NeuralProcess | Predictor, bandit: Bandit, num_steps: int | None = None, seed: int = 0
) -> Played:
    """Plays all games of a bandit.

    Args:
        player: an agent; or a model or predictor with an output per arm, which plays as `ModelAgent(model)` does.
        bandit: the games.
        num_steps: steps to play; None for all.
        seed: of the random numbers that agents draw from PyTorch's generators, which are left as they were.

    Raises:
        ConfigError: more steps than the bandit has, a model of other sizes, no agent at all, or no seed.
        ShapeError: tensors, or actions of an agent, that do not fit together.
        DataError: contexts or rewards that are not finite, no step, or arms that do not exist.
    """
    contexts, rewards, optimal = _check(bandit)
    b, n, dx = contexts.shape
    arms = rewards.shape[2]
    steps = n if num_steps is None else at_least("num_steps", num_steps, 1)
    if steps > n:
        raise ConfigError(f"expected at most the {n} steps that the bandit has, got num_steps={steps}: play fewer")
    agent = ModelAgent(player) if isinstance(player, NeuralProcess | Predictor) else player
    if not isinstance(agent, Agent):
        raise ConfigError(f"expected a model, a predictor or an agent, got {player!r}: see npexp.bandits.Agent")
    chosen, paid = torch.empty(b, steps, dtype=torch.long), rewards.new_empty(b, steps)
    with torch.random.fork_rng():
        torch.manual_seed(at_least("seed", seed, 0))
        agent.begin(b, dx, arms)
        for i in range(steps):
            actions = _arms(agent.act(contexts[:, i]), b, arms, i)
            chosen[:, i], paid[:, i] = actions, rewards[:, i].gather(1, actions[:, None])[:, 0]
            agent.learn(contexts[:, i], actions, paid[:, i])
    return Played(chosen, paid, optimal[:, :steps] - paid)


class Uniform:
    """Pulls any arm with equal probability, the same in all games.

    The reference of the published scores: with seed 0 its arms are those of the released code.

    Args:
        seed: of NumPy's legacy generator.
    """

    def __init__(self, seed: int = 0):
        self.seed = at_least("seed", seed, 0)

    def begin(self, tasks: int, dx: int, arms: int) -> None:
        self.rng, self.tasks, self.arms = np.random.RandomState(self.seed), tasks, arms

    def act(self, x: Tensor) -> Tensor:
        return torch.full((self.tasks,), self.rng.randint(self.arms))

    def learn(self, x: Tensor, actions: Tensor, rewards: Tensor) -> None:
        pass


class ModelAgent:
    """Plays by the predictions of a neural process with an output per arm.

    The context of the model are all steps so far; rewards that nobody saw are fresh noise, as in the protocol of
    Nguyen & Grover 2022 (arXiv 2207.04179), whose models are trained on such contexts (`datamodules.Wheel`). The first
    arm is random. A step costs the same throughout for models whose traits say update: exact; others encode the whole
    history again, O(n^2) over a game of n steps for a deep set, O(n^3) for dense attention.

    Args:
        model: a model or a predictor, raw units where that has a scaling.
        rule: "ucb" pulls the arm with the largest mean + width * standard deviation; "thompson" draws what all arms pay
            from the predicted law, jointly where that is joint, and pulls the largest. Both see observation noise too.
        width: standard deviations that "ucb" adds.
        noise: standard deviation of what stands for rewards that nobody saw; it should be that of training.

    Raises:
        ConfigError: a setting is out of range; in `begin`, a model of other sizes than the bandit.
    """

    def __init__(self, model: NeuralProcess | Predictor, rule: Rule = "ucb", width: float = 1.0, noise: float = 1.0):
        self.predictor = model if isinstance(model, Predictor) else Predictor(model)
        self.rule, self.width = _rule(rule), at_least("width", width, 0.0)
        self.noise = at_least("noise", noise, 0.0)
        self.state: State | None = None

    def begin(self, tasks: int, dx: int, arms: int) -> None:
        net = self.predictor.model
        if (net.dx, net.dy) != (dx, arms):
            raise ConfigError(
                f"expected a model with dx={dx} and an output for each of {arms} arms, got dx={net.dx}, dy={net.dy}: "
                f"train one with dx={dx}, dy={arms}"
            )
        self.state, self.arms = None, arms

    def act(self, x: Tensor) -> Tensor:
        if self.state is None:
            return torch.randint(self.arms, (len(x),))
        law = self.predictor.predict(self.state, x[:, None])
        worth = law.mean + self.width * law.stddev if self.rule == "ucb" else law.sample(1)[0]
        return worth[:, 0].argmax(-1).cpu()

    def learn(self, x: Tensor, actions: Tensor, rewards: Tensor) -> None:
        y = self.noise * torch.randn(len(x), self.arms, dtype=rewards.dtype)
        y.scatter_(1, actions[:, None], rewards[:, None])
        add = self.predictor.condition if self.state is None else lambda *new: self.predictor.update(self.state, *new)
        self.state = add(x[:, None], y[:, None])


class LinearAgent:
    """Bayesian linear regression on random Fourier features, for each arm alone: what plays well without training.

    Weights and noise have a normal-inverse-gamma prior whose numbers are those of the linear agents of Riquelme et al.
    2018 (arXiv 1802.09127); features are fixed waves (Rahimi & Recht 2007) instead of a network's. Exact updates of
    rank one, in float64: a step costs O(arms * num_features^2).

    Args:
        num_features: waves of the contexts; a constant comes on top.
        lengthscale: over which what an arm pays is expected to change.
        rule: see `ModelAgent`; here about what arms pay on average, without observation noise.
        width: standard deviations that "ucb" adds.
        precision: of the prior over weights, in units of the noise's precision.
        shape: of the prior over the noise's variance.
        rate: of that prior.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        num_features: int = 64,
        lengthscale: float = 0.3,
        rule: Rule = "ucb",
        width: float = 1.0,
        precision: float = 0.25,
        shape: float = 6.0,
        rate: float = 6.0,
    ):
        self.num_features = at_least("num_features", num_features, 1)
        self.lengthscale = positive("lengthscale", lengthscale)
        self.rule, self.width = _rule(rule), at_least("width", width, 0.0)
        self.precision, self.rate = positive("precision", precision), positive("rate", rate)
        self.shape = at_least("shape", shape, 1.001)  # the noise's variance has a mean above 1

    def begin(self, tasks: int, dx: int, arms: int) -> None:
        double = {"dtype": torch.float64}
        self.waves = torch.randn(dx, self.num_features, **double) / self.lengthscale
        self.phases = 2 * torch.pi * torch.rand(self.num_features, **double)
        width = self.num_features + 1
        self.covariance = (torch.eye(width, **double) / self.precision).repeat(tasks, arms, 1, 1)
        self.weights = torch.zeros(tasks, arms, width, **double)
        self.shapes = torch.full((tasks, arms), self.shape, **double)
        self.rates = torch.full((tasks, arms), self.rate, **double)

    def act(self, x: Tensor) -> Tensor:
        f = self._features(x)
        mean = torch.einsum("bf,baf->ba", f, self.weights)
        spread = torch.einsum("bf,bafg,bg->ba", f, self.covariance, f)
        if self.rule == "ucb":
            worth = mean + self.width * (self.rates / (self.shapes - 1) * spread).sqrt()
        else:
            variance = self.rates / torch._standard_gamma(self.shapes)
            worth = mean + (variance * spread).sqrt() * torch.randn_like(mean)
        return worth.argmax(-1)

    def learn(self, x: Tensor, actions: Tensor, rewards: Tensor) -> None:
        f, at = self._features(x), (torch.arange(len(x)), actions)
        gain = torch.einsum("bfg,bg->bf", self.covariance[at], f)
        total = 1 + (f * gain).sum(-1)
        error = rewards.double() - (f * self.weights[at]).sum(-1)
        self.covariance[at] -= gain[:, :, None] * gain[:, None] / total[:, None, None]
        self.weights[at] += gain * (error / total)[:, None]
        self.shapes[at] += 0.5
        self.rates[at] += 0.5 * error.square() / total

    def _features(self, x: Tensor) -> Tensor:
        waves = (2 / self.num_features) ** 0.5 * (x.double() @ self.waves + self.phases).cos()
        return torch.cat([waves, torch.ones_like(waves[:, :1])], -1)


def _rule(rule: Any) -> Rule:
    if rule not in ("ucb", "thompson"):
        raise UnknownNameError("rule", rule, ("ucb", "thompson"))
    return rule


def _check(bandit: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors of a bandit, on the CPU."""
    names = ("contexts", "rewards", "optimal")
    missing = [name for name in names if not isinstance(getattr(bandit, name, None), Tensor)]
    if missing:
        raise ShapeError(
            f"expected a bandit with the tensors {', '.join(names)}, got a {type(bandit).__name__} "
            f"without {', '.join(missing)}: see npexp.bandits.Bandit"
        )
    found = (getattr(bandit, name).detach().cpu() for name in names)
    contexts, rewards, optimal = (v if v.is_floating_point() else v.to(torch.get_default_dtype()) for v in found)
    axes = (contexts.ndim, rewards.ndim, optimal.ndim)
    if axes != (3, 3, 2) or not contexts.shape[:2] == rewards.shape[:2] == optimal.shape:
        raise ShapeError(
            "expected contexts [b, n, dx], rewards [b, n, arms] and optimal [b, n], got "
            f"{list(contexts.shape)}, {list(rewards.shape)} and {list(optimal.shape)}: align them"
        )
    if 0 in rewards.shape:
        raise DataError(f"expected at least one game, step and arm, got rewards {list(rewards.shape)}")
    for name, values in zip(names, (contexts, rewards, optimal), strict=True):
        if bad := (~values.isfinite()).nonzero().tolist():
            raise DataError(
                f"{name} holds NaN or an infinity, first in game {bad[0][0]}, step {bad[0][1]}: leave that step out"
            )
    return contexts, rewards, optimal


def _arms(actions: Any, tasks: int, arms: int, step: int) -> Tensor:
    """What an agent answered, checked."""
    if not isinstance(actions, Tensor) or actions.shape != (tasks,) or actions.dtype != torch.long:
        got = f"{actions.dtype} {list(actions.shape)}" if isinstance(actions, Tensor) else repr(actions)
        raise ShapeError(f"expected int64 actions [{tasks}] in step {step}, got {got}: give each game one arm")
    if not bool(((actions >= 0) & (actions < arms)).all()):
        raise DataError(f"expected arms from 0 to {arms - 1} in step {step}, got {actions.tolist()}: correct the agent")
    return actions
