"""What sources share that draw every task anew: sizes, padding, and how many batches an evaluation set has."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from datamodules.base import NPDataModule
from datamodules.settings import sizes
from npexp.batch import TaskBatch
from npexp.errors import at_least


class SampledTasks(NPDataModule):
    """Tasks without end, with sizes drawn for each batch or for each task.

    Args:
        dx: input size.
        dy: output size.
        num_context: smallest and largest context, drawn once per batch.
        num_target: smallest and largest number of targets, drawn once per batch.
        max_points: cap on context and targets together: the largest number of targets becomes this less the context.
        ragged: draw both numbers for each task alone; the batch is padded with zeros and has masks.
        batch_size: tasks per batch.
        steps_per_epoch: training steps per epoch.
        num_val_batches: validation batches.
        num_test_batches: batches in each test set.
        seed: names the stream of tasks.
        num_workers: processes that prepare training batches.
        cache_dir: where evaluation sets are kept; None for `$XDG_CACHE_HOME/npexp` or `~/.cache/npexp`.
        test_names: the test sets, see `NPDataModule`.

    Attributes:
        most_points: context and targets together, at most.

    Raises:
        ConfigError: a setting is out of range or contradicts another.
    """

    def __init__(
        self,
        dx: int,
        dy: int,
        num_context: Sequence[int],
        num_target: Sequence[int],
        max_points: int | None,
        ragged: bool,
        batch_size: int,
        steps_per_epoch: int,
        num_val_batches: int,
        num_test_batches: int,
        seed: int,
        num_workers: int,
        cache_dir: str | None,
        test_names: tuple[str, ...] = ("test",),
    ):
        super().__init__(dx, dy, batch_size, steps_per_epoch, seed, num_workers, cache_dir, test_names)
        self.num_context = sizes("num_context", num_context, 0)
        self.num_target = sizes("num_target", num_target, 1)
        self.max_points, self.ragged = max_points, ragged
        self.most_points = num_context[1] + num_target[1]
        if max_points is not None:
            at_least("max_points (largest context plus fewest targets)", max_points, num_context[1] + num_target[0])
            self.most_points = min(max_points, self.most_points)
        self.num_val_batches = at_least("num_val_batches", num_val_batches, 1)
        self.num_test_batches = at_least("num_test_batches", num_test_batches, 1)

    def num_batches(self, split: str) -> int:
        return self.num_val_batches if split == "val" else self.num_test_batches

    def draw_sizes(self, rng: np.random.Generator) -> tuple[int, int, Bool[Tensor, "b n"] | None]:
        """Context and target slots of a batch, and which of them are real, context first; None where all are."""
        low, high = self.num_target
        if not self.ragged:
            nc = int(rng.integers(*self.num_context, endpoint=True))
            return nc, int(rng.integers(low, min(high, self.most_points - nc), endpoint=True)), None
        num_c = rng.integers(*self.num_context, size=self.batch_size, endpoint=True)
        most = np.minimum(high, self.most_points - num_c)
        num_t = rng.integers(low, most, size=self.batch_size, endpoint=True)
        nc, nt = int(num_c.max()), int(num_t.max())
        real = [np.arange(nc) < num_c[:, None], np.arange(nt) < num_t[:, None]]
        return nc, nt, torch.from_numpy(np.concatenate(real, 1))

    def plot_contexts(self, num: int) -> list[int]:
        """Context sizes of `num` tasks for figures, spread over their range."""
        return [int(nc) for nc in np.linspace(*self.num_context, num + 2)[1:-1].round()]


def assemble(
    x: Float[Tensor, "b n dx"],
    y: Float[Tensor, "b n dy"],
    nc: int,
    mask: Bool[Tensor, "b n"] | None = None,
    oracle_joint: Float[Tensor, " b"] | None = None,
    oracle_marginal: Float[Tensor, "b nt"] | None = None,
) -> TaskBatch:
    """Points as tasks: the first `nc` are the context; padding becomes zero."""
    if mask is not None:
        x, y = x.masked_fill(~mask[..., None], 0.0), y.masked_fill(~mask[..., None], 0.0)
    (xc, xt), (yc, yt) = ([part.contiguous() for part in v.tensor_split([nc], 1)] for v in (x, y))
    mask_c, mask_t = (None, None) if mask is None else (part.contiguous() for part in mask.tensor_split([nc], 1))
    return TaskBatch(xc, yc, xt, yt, mask_c, mask_t, oracle_joint, oracle_marginal)


def distinct(rng: np.random.Generator, counts: np.ndarray, slots: int, mask: Bool[Tensor, "b n"] | None) -> np.ndarray:
    """Numbers from 0 to `counts[i]` - 1 for the slots of task i, no number twice in real slots, `[b, slots]`.

    Args:
        rng: the stream.
        counts: how many there are to choose from, at least as many as real slots, `[b]`.
        slots: slots of each task.
        mask: which are real; None where all are.
    """
    keys = rng.random((len(counts), counts.max()))
    keys[np.arange(counts.max()) >= counts[:, None]] = 1.0
    order = keys.argsort(1)
    if mask is None:
        return order[:, :slots]
    return np.take_along_axis(order, (mask.numpy().cumsum(1) - 1).clip(0), 1)


def column(values: np.ndarray) -> Float[Tensor, "b n 1"]:
    """One column per point, `[b, n]` to `[b, n, 1]`, float32."""
    return torch.from_numpy(values.astype(np.float32))[..., None]
