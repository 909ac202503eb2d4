"""Playing: what agents are shown, how they choose, and what they are charged."""

import math
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import t as student
from torch import nn

import npexp
from npexp.bandits import LinearAgent, ModelAgent, Uniform, play
from npexp.errors import ConfigError, DataError, ShapeError, UnknownNameError
from npexp.likelihoods import DiagonalGaussian, SetMixture
from npexp.models.base import NeuralProcess

SMALL = {"dx": 2, "dy": 3}


def bandit(b=4, n=6, arms=3, seed=0):
    """Anything with the three tensors is a bandit."""
    rng = torch.Generator().manual_seed(seed)
    contexts = torch.rand(b, n, 2, generator=rng, dtype=torch.float64)
    rewards = torch.rand(b, n, arms, generator=rng, dtype=torch.float64)
    return SimpleNamespace(contexts=contexts, rewards=rewards, optimal=rewards.max(-1).values)


class Scripted:
    """Pulls arms in a fixed order and writes down what it learns."""

    def begin(self, tasks, dx, arms):
        self.tasks, self.arms, self.log = tasks, arms, []

    def act(self, x):
        return (len(self.log) + torch.arange(self.tasks)) % self.arms

    def learn(self, x, actions, rewards):
        self.log.append((x, actions, rewards))


class Known(NeuralProcess):
    """Predicts a law that is given, whatever the context, and keeps that."""

    def __init__(self, law, dy):
        super().__init__(2, dy)
        self.law, self.weight = law, nn.Parameter(torch.zeros(1))

    def _encode(self, points):
        return (points.x, points.y)

    def _predict(self, state, xt, mask_t):
        return self.law(len(xt))


def known(mean, stddev):
    shape = lambda values, b: torch.tensor(values).expand(b, 1, -1)  # noqa: E731
    return Known(lambda b: DiagonalGaussian(shape(mean, b), shape(stddev, b)), len(mean))


def test_accounts_are_those_of_a_loop():
    game, agent = bandit(), Scripted()
    played = play(agent, game)
    for task in range(4):
        for step in range(6):
            arm = (step + task) % 3
            paid = game.rewards[task, step, arm]
            assert played.actions[task, step] == arm and played.rewards[task, step] == paid
            assert played.regret[task, step] == game.rewards[task, step].max() - paid
            x, actions, rewards = agent.log[step]
            assert torch.equal(x[task], game.contexts[task, step]) and actions[task] == arm and rewards[task] == paid
    assert torch.equal(play(agent, game, num_steps=2).regret, played.regret[:, :2]) and len(agent.log) == 2
    reference = played._replace(regret=torch.full((4, 6), 2.0))
    assert torch.allclose(played.percent(reference).double(), 100 * played.regret.sum(1) / 12)


@pytest.mark.parametrize("name", ["cnp", "canp", "rmnp"])
def test_a_model_plays_as_one_game_after_the_other_with_all_of_its_history(name):
    """Updates of a batch of games against encoding each game's whole history anew, with the same noise."""
    torch.manual_seed(1)
    model = npexp.build(name, **SMALL).double().eval()
    model.adapt(torch.rand(64, 2, dtype=torch.float64))
    game = bandit(n=7)
    played = play(model, game, seed=5)
    torch.manual_seed(5)
    actions = torch.randint(3, (4,))
    history = game.rewards.new_empty(4, 0, 3)
    for step in range(7):
        if step:
            for task in range(4):
                seen = game.contexts[task : task + 1, :step], history[task : task + 1]
                with torch.no_grad():
                    law = model(*seen, game.contexts[task : task + 1, step : step + 1])
                actions[task] = (law.mean + law.stddev)[0, 0].argmax()
        assert torch.equal(played.actions[:, step], actions)
        y = torch.randn(4, 3, dtype=torch.float64)
        y[torch.arange(4), actions] = game.rewards[torch.arange(4), step, actions]
        history = torch.cat([history, y[:, None]], 1)


def test_the_history_hides_what_was_not_seen():
    agent, game = ModelAgent(known([0.0, 1.0, 0.5], [1.0, 1.0, 1.0]), noise=2.0), bandit(b=300, n=40)
    played = play(agent, game)
    x, y = agent.state.summary
    assert torch.equal(x, game.contexts.float())
    assert torch.equal(y.gather(2, played.actions[..., None])[..., 0], played.rewards.float())
    hidden = y[torch.ones_like(y, dtype=torch.bool).scatter_(2, played.actions[..., None], False)]
    assert hidden.mean().abs() < 0.06 and hidden.std() == pytest.approx(2.0, rel=0.03)  # 24,000 draws
    assert (played.actions[:, 1:] == 1).all()
    first = played.actions[:, 0].bincount(minlength=3)
    assert first.min() > 70  # of 300, each game its own


def test_ucb_adds_standard_deviations():
    net, game = known([1.0, 0.8, 0.5], [0.0, 0.3, 0.55]), bandit(n=2)
    for width, arm in ((0.0, 0), (0.8, 1), (2.0, 2)):  # 1, 1.04 and 1.6 at most
        assert (play(ModelAgent(net, width=width), game).actions[:, 1] == arm).all()
    assert torch.equal(play(net, game).actions, play(ModelAgent(net, "ucb", 1.0), game).actions)
    assert torch.equal(play(npexp.Predictor(net), game).actions, play(net, game).actions)


def test_thompson_pulls_an_arm_as_often_as_it_may_be_best():
    net, game = known([0.0, 0.5], [1.0, 0.7]), bandit(b=8000, n=2, arms=2)
    second = play(ModelAgent(net, rule="thompson"), game).actions[:, 1].double().mean()
    expected = 0.5 * (1 + math.erf(0.5 / math.sqrt(2 * (1.0 + 0.49))))
    assert second == pytest.approx(expected, abs=4 * 0.5 / 8000**0.5)


def test_thompson_draws_arms_jointly():
    """Two experts agree which arm is best but not on the level: separate draws would be wrong a quarter of the time."""
    mean = torch.tensor([[0.0, 1.0], [2.0, 3.0]])[:, None, None]

    def law(b):
        means = mean.expand(2, b, 1, 2)
        return SetMixture(DiagonalGaussian(means, torch.full_like(means, 1e-3)))

    played = play(ModelAgent(Known(law, 2), rule="thompson"), bandit(b=200, n=2, arms=2))
    assert (played.actions[:, 1] == 1).all()


def test_exact_updates_see_one_point_per_step(monkeypatch):
    model = npexp.build("cnp", **SMALL)
    sizes = []
    encode = type(model)._encode
    monkeypatch.setattr(type(model), "_encode", lambda self, p: (sizes.append(p.x.shape[1]), encode(self, p))[1])
    play(model, bandit(n=30))
    assert sizes == [1] * 30


def test_scaled_predictors_play_in_raw_units():
    scaling = {"x_shift": [0.0, 0.0], "x_scale": [1.0, 1.0], "y_shift": [5.0, 0.0, 0.0], "y_scale": [2.0, 1.0, 1.0]}
    agent = ModelAgent(npexp.Predictor(known([0.0, 1.0, 2.0], [0.1, 0.1, 0.1]), scaling=scaling))
    played = play(agent, bandit(n=2))
    assert (played.actions[:, 1] == 0).all()  # 5, 1 and 2 in raw units
    assert torch.allclose(agent.state.summary[1][:, 1, 0], (played.rewards[:, 1].float() - 5) / 2)


def test_linear_agent_is_the_regression_in_closed_form():
    agent, game = LinearAgent(num_features=7, lengthscale=0.5), bandit(b=2, n=25)
    played = play(agent, game)
    f = agent._features(game.contexts.flatten(0, 1)).unflatten(0, (2, 25))
    new = torch.tensor([[0.3, 0.4], [0.9, 0.1]])
    worth = torch.empty(2, 3, dtype=torch.float64)
    for task in range(2):
        for arm in range(3):
            mine = played.actions[task] == arm
            phi, y = f[task, mine], played.rewards[task, mine]
            precision = 0.25 * torch.eye(8, dtype=torch.float64) + phi.T @ phi
            weights = torch.linalg.solve(precision, phi.T @ y)
            rate = 6 + 0.5 * (y @ y - weights @ precision @ weights)
            shape = 6 + 0.5 * len(y)
            at = agent._features(new)[task]
            spread = at @ torch.linalg.solve(precision, at)
            worth[task, arm] = at @ weights + (rate / (shape - 1) * spread).sqrt()
            torch.testing.assert_close(agent.weights[task, arm], weights)
            torch.testing.assert_close(agent.rates[task, arm], rate)
            assert agent.shapes[task, arm] == shape
    assert torch.equal(agent.act(new), worth.argmax(-1))


@pytest.mark.parametrize("rule", ["ucb", "thompson"])
def test_linear_agent_learns(rule):
    """Arm 0 pays more on the left, arm 1 on the right."""
    rng = torch.Generator().manual_seed(0)
    contexts = torch.rand(20, 150, 2, generator=rng)
    left = torch.where(contexts[..., 0] < 0.5, 1.0, -1.0)
    rewards = torch.stack([left, -left], -1) + 0.1 * torch.randn(20, 150, 2, generator=rng)
    game = SimpleNamespace(contexts=contexts, rewards=rewards, optimal=rewards.max(-1).values)
    played = play(LinearAgent(num_features=16, rule=rule), game)
    percent = played.percent(play(Uniform(), game))
    assert percent.mean() < 35 and played.regret[:, -50:].mean() < played.regret[:, :50].mean() / 2


def test_thompson_of_the_linear_agent_follows_its_posterior():
    """Before any reward all arms are alike; what one arm paid then decides how often it is pulled."""
    agent = LinearAgent(num_features=4, rule="thompson")
    torch.manual_seed(0)
    agent.begin(6000, 2, 2)
    x = torch.zeros(6000, 2)
    assert float(agent.act(x).double().mean()) == pytest.approx(0.5, abs=0.03)
    agent.learn(x, torch.zeros(6000, dtype=torch.long), torch.full((6000,), 2.0))
    f = agent._features(x[:1])[0]
    values = []
    for arm, shape in ((0, 6.5), (1, 6.0)):  # what an arm pays on average has a Student law
        scale = (f @ agent.covariance[0, arm] @ f * agent.rates[0, arm] / shape).sqrt().item()
        mean = (f @ agent.weights[0, arm]).item()
        values.append(student.rvs(2 * shape, mean, scale, size=200_000, random_state=arm))
    assert float(agent.act(x).double().mean()) == pytest.approx((values[1] > values[0]).mean(), abs=0.025)


def test_seeds_name_plays_and_leave_the_global_stream_alone():
    game, agent = bandit(b=50, n=8), LinearAgent(num_features=5, rule="thompson")
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    a, b, c = (play(agent, game, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(a.actions, b.actions) and not torch.equal(a.actions, c.actions)


@pytest.mark.parametrize("player", [npexp.build("cnp", **SMALL), LinearAgent(num_features=3), Uniform()])
def test_whole_numbers_are_rewards_too(player):
    """Clicks and counts, which come as integers."""
    game = bandit()
    game.rewards = (game.rewards > 0.5).long()
    game.optimal = game.rewards.max(-1).values
    played = play(player, game)
    assert torch.equal(played.rewards, game.rewards.gather(2, played.actions[..., None])[..., 0].float())
    assert played.percent(played).mean() == pytest.approx(100)


class Wrong(Scripted):
    """Answers something else."""

    def __init__(self, answer):
        self.answer = answer

    def act(self, x):
        return self.answer


def changed(**tensors):
    return SimpleNamespace(**{**vars(bandit()), **tensors})


NET = npexp.build("cnp", **SMALL)
NAN = torch.full((4, 6, 3), float("nan"))
BAD = [
    (lambda: play(npexp.build("cnp", dx=2, dy=5), bandit()), ConfigError, r"an output for each of 3 arms, .* dy=5"),
    (lambda: play(npexp.build("cnp", dx=1, dy=3), bandit()), ConfigError, "expected a model with dx=2 .* got dx=1"),
    (lambda: play(NET, bandit(), num_steps=7), ConfigError, "at most the 6 steps that the bandit has, got num_steps=7"),
    (lambda: play(NET, bandit(), num_steps=0), ConfigError, "expected num_steps to be an integer, at least 1"),
    (lambda: play(NET, bandit(), seed=-1), ConfigError, "expected seed to be an integer, at least 0, got -1"),
    (lambda: play(Wrong([0] * 4), bandit()), ShapeError, r"int64 actions \[4\] in step 0, got \[0, 0, 0, 0\]"),
    (lambda: play("cnp", bandit()), ConfigError, "expected a model, a predictor or an agent, got 'cnp'"),
    (lambda: play(NET, SimpleNamespace(contexts=NAN)), ShapeError, "SimpleNamespace without rewards, optimal"),
    (lambda: play(NET, changed(optimal=NAN)), ShapeError, r"optimal \[b, n\], got .* and \[4, 6, 3\]: align"),
    (lambda: play(NET, changed(contexts=NAN[:3])), ShapeError, r"got \[3, 6, 3\], \[4, 6, 3\]"),
    (lambda: play(NET, changed(rewards=NAN)), DataError, "rewards holds NaN or an infinity, first in game 0, step 0"),
    (lambda: play(NET, bandit(n=0)), DataError, r"at least one game, step and arm, got rewards \[4, 0, 3\]"),
    (lambda: play(Wrong(torch.zeros(4, 1)), bandit()), ShapeError, r"int64 actions \[4\] in step 0"),
    (lambda: play(Wrong(torch.full((4,), 3)), bandit()), DataError, r"arms from 0 to 2 in step 0, got \[3, 3, 3, 3\]"),
    (lambda: ModelAgent(NET, rule="greedy"), UnknownNameError, "unknown rule 'greedy'; known: thompson, ucb"),
    (lambda: ModelAgent(NET, width=-1.0), ConfigError, "expected width to be a number, at least 0.0, got -1.0"),
    (lambda: ModelAgent(NET, noise=-1.0), ConfigError, "expected noise to be a number, at least 0.0, got -1.0"),
    (lambda: ModelAgent("cnp"), ConfigError, "expected a NeuralProcess, got str"),
    (lambda: LinearAgent(num_features=0), ConfigError, "expected num_features to be an integer, at least 1, got 0"),
    (lambda: LinearAgent(lengthscale=0.0), ConfigError, "expected lengthscale > 0"),
    (lambda: LinearAgent(shape=1.0), ConfigError, "expected shape to be a number, at least 1.001, got 1.0"),
    (lambda: Uniform(seed=-1), ConfigError, "expected seed to be an integer, at least 0, got -1"),
]


@pytest.mark.parametrize("call, error, message", BAD)
def test_misuse_is_a_typed_error(call, error, message, untyped):
    with pytest.raises(error, match=message):
        call()
