"""The wheel bandit: who loses how much, in per cent of what pulling arms at random loses.

    OMP_NUM_THREADS=1 python results/bandits/run.py [--agents tnp cnp ...] [--steps N] [--games N] [--deltas D ...]

Adds a row to wheel.csv beside this file for each agent, rule and radius delta: first the uniform agent, then linear
ones, which learn nothing before a game, then models trained on the wheel. By default a model trains for minutes
on one core; 100,000 steps are published. Models that encode their whole history in every step play few
games by default; the others play the published 50.

Rows that are there are kept, so a run can be stopped and started again; weights are kept in runs/bandits.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

import npexp
from datamodules import WheelGame, wheel_game
from npexp.bandits import Agent, LinearAgent, ModelAgent, Played, Uniform, play
from npexp.models.base import NeuralProcess

sys.path.append(str(Path(__file__).parents[1]))
from shared import Table, fit

HERE = Path(__file__).parent
SIZES = {"dz": 16, "num_heads": 1, "dim_feedforward": 64, "num_layers": 4}  # published for the wheel
RULES = ("ucb", "thompson")
DELTAS = (0.7, 0.9, 0.95, 0.99, 0.995)
STEPS = {"tnp": 10_000, "cnp": 4_000}  # of training, by default: fourteen and three minutes on one core
GAMES = {"exact": 50, "recompute": 5}
MODELS = {  # those of conf/experiment/wheel_*.yaml
    "tnp": ("paper/tnpd", {**SIZES, "depth_embedding": 3, "dim_head": 64}),
    "cnp": ("cnp", {}),
}
AGENTS = ("uniform", "linear", *MODELS)
KEY = ("agent", "rule", "delta", "train", "steps", "lr", "seed", "game", "games")
COLUMNS = [*KEY, "parameters", "regret_percent", "spread", "regret", "train_seconds", "game_steps_per_second"]


def model(name: str) -> NeuralProcess:
    """An untrained model."""
    config, settings = MODELS[name]
    return npexp.build(config, dx=2, dy=5, **settings)


def trained(name: str, facts: dict[str, Any]) -> tuple[NeuralProcess, float]:
    """The trained model and the processor time that took, read from runs/bandits where it was trained before."""
    words = (name, facts["train"], facts["steps"], facts["lr"], facts["seed"])
    path = Path("runs/bandits") / f"{'_'.join(map(str, words))}.pt"
    torch.manual_seed(facts["seed"])
    net = model(name)
    if path.exists():
        kept = torch.load(path, weights_only=True)
        net.load_state_dict(kept["weights"])
        return net.eval(), kept["seconds"]
    data, start = npexp.build_data("wheel", fixed=facts["train"] == "published"), time.process_time()
    fit(net, data, facts["steps"], facts["lr"], facts["seed"])
    seconds = time.process_time() - start
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weights": net.state_dict(), "seconds": seconds}, path)
    return net, seconds


def games(kind: str, delta: float, num: int) -> WheelGame:
    """The published games or new ones."""
    return wheel_game(delta, num, published=kind == "published")


def score(agent: Agent, facts: dict[str, Any]) -> dict[str, float]:
    """Plays, and compares with the uniform agent's mean over 50 games."""
    start = time.process_time()
    played = play(agent, games(facts["game"], facts["delta"], facts["games"]))
    seconds = time.process_time() - start
    percent = played.percent(uniform(facts["game"], facts["delta"]))
    return {
        "regret_percent": percent.mean().item(),
        "spread": percent.std(correction=0).item(),
        "regret": played.regret.sum(1).mean().item(),
        "game_steps_per_second": played.regret.numel() / seconds,
    }


def uniform(kind: str, delta: float) -> Played:
    """What the uniform agent loses."""
    return play(Uniform(), games(kind, delta, GAMES["exact"]))


def main() -> None:
    """Fills the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", choices=AGENTS, default=AGENTS)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=RULES)
    parser.add_argument("--deltas", nargs="+", type=float, default=DELTAS)
    parser.add_argument("--steps", type=int, help="of training; published: 100000")
    parser.add_argument("--lr", type=float, default=2e-3, help="published, for its 100,000 steps: 5e-4")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--train", choices=("published", "new"), default="published", help="wheels to train on")
    parser.add_argument("--game", choices=("published", "new"), default="published", help="games to play")
    parser.add_argument("--games", type=int, help="games of each radius; published: 50")
    parser.add_argument("--table", type=Path, default=HERE / "wheel.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(args.table, COLUMNS, key=KEY)
    for name in args.agents:
        net = seconds = None
        exact = name not in MODELS or model(name).traits["update"] == "exact"
        for delta in args.deltas:
            for rule in args.rules if name != "uniform" else ("",):
                facts = {"agent": name, "rule": rule, "delta": delta, "train": "", "steps": 0, "lr": "", "seed": 0}
                facts |= {"game": args.game, "games": args.games or GAMES["exact" if exact else "recompute"]}
                if name in MODELS:
                    steps = args.steps or STEPS[name]
                    facts |= {"train": args.train, "steps": steps, "seed": args.seed, "lr": args.lr}
                if table.has(**facts):
                    continue
                if name == "uniform":
                    agent = Uniform()
                elif name == "linear":
                    agent = LinearAgent(rule=rule)
                else:
                    if net is None:
                        net, seconds = trained(name, facts)
                        size = sum(p.numel() for p in net.parameters())
                    facts |= {"parameters": size, "train_seconds": seconds}
                    agent = ModelAgent(net, rule)
                table.add(facts | score(agent, facts))


if __name__ == "__main__":
    main()
