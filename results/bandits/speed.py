"""What a step of play costs as the history grows: models with exact updates against those that encode it all again.

    OMP_NUM_THREADS=1 python results/bandits/speed.py

Writes speed.csv beside this file: steps of one game per second of processor time, medians, untrained weights.
"""

import statistics
import sys
import time
from pathlib import Path

import torch
from run import HERE, SIZES, model

import npexp
from datamodules import wheel_game
from npexp.bandits import ModelAgent
from npexp.models.base import NeuralProcess

sys.path.append(str(Path(__file__).parents[1]))
from shared import Table

HISTORIES = (100, 500, 1_000, 1_900)


def rate(net: NeuralProcess, history: int, repeats: int = 15) -> float:
    """Steps of one game per second, after so many."""
    game, agent, times = wheel_game(num_games=1), ModelAgent(net), []
    agent.begin(1, 2, 5)
    agent.state = agent.predictor.condition(game.contexts[:, :history], game.rewards[:, :history])
    for step in range(history, history + repeats):
        x, start = game.contexts[:, step], time.process_time()
        actions = agent.act(x)
        agent.learn(x, actions, game.rewards[:, step].gather(1, actions[:, None])[:, 0])
        times.append(time.process_time() - start)
    return 1 / statistics.median(times)


def main() -> None:
    """Fills the table."""
    torch.set_num_threads(1)
    table = Table(HERE / "speed.csv", ["model", "update", "history", "steps_per_second"], key=("model", "history"))
    nets = {"tnp": model("tnp"), "cnp": model("cnp"), "cmanp": npexp.build("cmanp", dx=2, dy=5, **SIZES)}
    for name, net in (nets | {"rmnp": npexp.build("rmnp", dx=2, dy=5)}).items():
        net.adapt(wheel_game(num_games=1).contexts[0].float())
        for history in HISTORIES:
            facts = {"model": name, "update": net.traits["update"], "history": history}
            if not table.has(**facts):
                table.add(facts | {"steps_per_second": rate(net, history)})


if __name__ == "__main__":
    main()
