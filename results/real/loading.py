"""How many tasks per second each source delivers, beside what the smallest model consumes.

    OMP_NUM_THREADS=1 python results/real/loading.py [--only DATA ...]

Writes loading.csv beside this file. Delivered: training batches made one after the other, in processor time of one
thread. Consumed: training steps of `cnp` on batches that are there, in the same process, taken in turns.
"""

import argparse
import itertools
import statistics
import sys
import time
from pathlib import Path

import torch

import npexp
from npexp.config import config_names
from npexp.errors import NPError

sys.path.append(str(Path(__file__).parents[1]))
from shared import Table, train_step

HERE = Path(__file__).parent
COLUMNS = ["data", "batch_size", "delivered_per_second", "consumed_per_second", "ratio"]
ROUNDS, BATCHES = 9, 6


def main() -> None:
    """Fills the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="DATA", help="names of conf/data; all, unless given")
    parser.add_argument("--table", type=Path, default=HERE / "loading.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(args.table, COLUMNS, key=("data",))
    for name in args.only or [n.removeprefix("data/") for n in config_names("data")]:
        if table.has(data=name):
            continue
        try:
            data = npexp.build_data(name)
            ready = [data.make_batch("train", i) for i in range(BATCHES)]
        except NPError as error:  # files that the user must bring
            print(f"{name}: {error}")
            continue
        net = npexp.build("cnp", dx=data.dx, dy=data.dy)
        optimizer = torch.optim.Adam(net.parameters(), 1e-6, fused=True)
        numbers = itertools.count(BATCHES)
        times: tuple[list[float], list[float]] = [], []
        for _ in range(ROUNDS):
            start = time.process_time()
            for _ in range(BATCHES):
                data.make_batch("train", next(numbers))
            middle = time.process_time()
            for batch in ready:
                train_step(net, optimizer, batch)
            times[0].append(middle - start)
            times[1].append(time.process_time() - middle)
        delivered, consumed = (BATCHES * ready[0].num_tasks / statistics.median(taken) for taken in times)
        row = {"data": name, "batch_size": ready[0].num_tasks, "ratio": delivered / consumed}
        table.add(row | {"delivered_per_second": delivered, "consumed_per_second": consumed})


if __name__ == "__main__":
    main()
