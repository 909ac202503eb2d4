"""Electroencephalograms: several channels over time, of which some are hidden for a while or from a moment on."""

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from datamodules.base import PlotTask
from datamodules.eeg_files import SAMPLE_CHANNELS, read_folder, read_sample
from datamodules.loader import generator
from datamodules.sampled import SampledTasks, assemble, column
from datamodules.settings import fractions, interval, sizes
from npexp.batch import TaskBatch
from npexp.errors import ConfigError, DataError, UnknownNameError, at_least

SAMPLE = "sample"
FRONTAL = ("FZ", "F1", "F2", "F3", "F4", "F5", "F6")
KINDS = ("interpolation", "reconstruction", "forecast")
SPLITS = ("train", "val", "test")


class EEG(SampledTasks):
    """Windows of multichannel recordings, to be completed at any time and in any channel.

    Use it for recordings in the format of the EEG Database of the UCI archive, by default with seven frontal channels
    after the experiment of Bruinsma et al. (2023, arXiv 2303.14468), whose split and sizes are not copied. What ships
    is a short recording of four channels in matplotlib: enough to try, too little to conclude from.

    Each pair of a time and a channel is a point: inputs are the time in [-2, 2] and a one where the channel is, among
    zeros for the others, so dx is one more than the number of channels, and dy is 1. A point with all channels as
    outputs could not say that some are unknown. Values are standardised with the mean and standard deviation of the
    training part, and predictors of finished runs take the number of the sample since the beginning of the window,
    with the same zeros and ones, and give values as the files have them, microvolts in the archive.

    Each task is of one kind. "interpolation": any points tell any others. "reconstruction": a stretch of some channels
    is hidden, to be told by their other times and by the other channels. "forecast": the end of all channels is. The
    test set has all kinds, and each has one of its own. Subjects are divided among training, validation and test; the
    recording that ships is divided in time, and no window crosses a border.

    Args:
        path: a folder with trials of the archive, unpacked, such as co2a0000364.rd.000 or co2a0000364.rd.000.gz, which
            take a minute or two to read when all are there; or "sample" for the recording that ships.
        channels: names of channels; None for the seven frontal ones, or all of the sample.
        kinds: which tasks, all equally likely.
        window: samples of a window, which begins anywhere in a trial; 256 for the whole trials of the archive.
        hidden_channels: fewest and most channels that are hidden in "reconstruction", drawn for each task.
        hidden_share: range of the share of the window that is hidden in "reconstruction" and "forecast", uniform.
        gain: range of a factor on each training window, log-uniform, which also is turned over with probability 1/2, as
            if there were more subjects; None for windows as they are.
        val_fraction: share of the subjects, or of the time of the sample, for validation.
        test_fraction: share for the test set.
        num_context: smallest and largest context, drawn once per batch.
        num_target: smallest and largest number of targets, drawn once per batch.
        batch_size: windows per batch.
        steps_per_epoch: training steps per epoch.
        num_val_batches: validation batches.
        num_test_batches: batches in each test set.
        seed: of the division and of all tasks.
        num_workers: processes that prepare training batches.
        cache_dir: where evaluation sets are kept; None for `$XDG_CACHE_HOME/npexp` or `~/.cache/npexp`.

    Raises:
        ConfigError: a setting is out of range or contradicts another, or no trial is as long as the window.
        UnknownNameError: there is no such kind of task, or no such channel in the sample.
        DataError: the folder cannot be read, or has too few subjects for three parts.
    """

    oracle = False

    def __init__(
        self,
        path: str | None = SAMPLE,
        channels: Sequence[str] | None = None,
        kinds: Sequence[str] = KINDS,
        window: int = 128,
        hidden_channels: Sequence[int] = (2, 3),
        hidden_share: Sequence[float] = (0.25, 0.4),
        gain: Sequence[float] | None = None,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        num_context: Sequence[int] = (32, 128),
        num_target: Sequence[int] = (32, 64),
        batch_size: int = 16,
        steps_per_epoch: int = 500,
        num_val_batches: int = 32,
        num_test_batches: int = 32,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ):
        default = SAMPLE_CHANNELS if path == SAMPLE else FRONTAL
        self.path, self.channels = path, default if channels is None else tuple(channels)
        if not self.channels or len(set(self.channels)) < len(self.channels):
            raise ConfigError(f"expected different channels, at least one, got {channels}: name each once")
        channels_known = SAMPLE_CHANNELS if path == SAMPLE else self.channels  # those of a folder show in its files
        for what, names, known in (("kind of task", kinds, KINDS), ("channel", self.channels, channels_known)):
            for name in names:
                if name not in known:
                    raise UnknownNameError(what, name, known)
        super().__init__(
            dx=1 + len(self.channels),
            dy=1,
            num_context=num_context,
            num_target=num_target,
            max_points=None,
            ragged=False,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            num_val_batches=num_val_batches,
            num_test_batches=num_test_batches,
            seed=seed,
            num_workers=num_workers,
            cache_dir=cache_dir,
            test_names=("test", *(f"test_{kind}" for kind in kinds)) if len(kinds) > 1 else ("test",),
        )
        if not kinds or len(set(kinds)) < len(kinds):
            raise ConfigError(f"expected different kinds of tasks, at least one, got {kinds}: choose among {KINDS}")
        self.kinds, self.window = tuple(kinds), at_least("window", window, 2)
        self.hidden_channels = sizes("hidden_channels", hidden_channels, 1)
        self.hidden_share = interval("hidden_share", hidden_share, positive=True)
        if self.hidden_share[1] >= 1:
            raise ConfigError(f"expected a hidden_share below 1, got {hidden_share!r}: leave something to see")
        self.gain = None if gain is None else interval("gain", gain, positive=True)
        self.val_fraction, self.test_fraction = fractions(val_fraction, test_fraction)
        self._check_sizes()

    @cached_property
    def scaling(self) -> dict[str, list[float]]:
        """From the number of a sample in its window and a one among zeros, and values as in the files."""
        own, zeros = self.trials["train"], [0.0] * len(self.channels)
        return {
            "x_shift": [(self.window - 1) / 2, *zeros],
            "x_scale": [(self.window - 1) / 4, *(z + 1 for z in zeros)],
            "y_shift": [float(own.mean())],
            "y_scale": [float(own.std()) or 1.0],
        }

    @cached_property
    def trials(self) -> dict[str, np.ndarray]:
        """What each part holds, "train", "val" and "test", `[trials, channels, samples]`, float64, as in the files."""
        shares = np.cumsum([1 - self.val_fraction - self.test_fraction, self.val_fraction])
        if self.path == SAMPLE:
            recording = read_sample()[[SAMPLE_CHANNELS.index(name) for name in self.channels]]
            parts = np.split(recording[None], (shares * recording.shape[1]).round().astype(int), 2)
        else:
            subjects, trials = read_folder(self.path, self.channels)
            parts = [trials[np.isin(subjects, part)] for part in self._divide(sorted(set(subjects)))]
        for split, part in zip(SPLITS, parts, strict=True):
            if part.shape[2] < self.window:
                raise ConfigError(
                    f"expected trials of at least {self.window} samples, as the window has, got {part.shape[2]} in the "
                    f"{split} part of {self.path}: shorten the window"
                )
        return dict(zip(SPLITS, parts, strict=True))

    def make_batch(self, split: str, index: int) -> TaskBatch:
        self.check_index(split, index)
        rng, trials = generator(self.seed, split, index=index), self._part(split)
        nc, nt, _ = self.draw_sizes(rng)
        trial = rng.integers(len(trials), size=self.batch_size)
        begin = rng.integers(trials.shape[2] - self.window, size=self.batch_size, endpoint=True)
        kinds = rng.integers(len(self.kinds), size=self.batch_size)
        kinds = np.array(self.kinds)[kinds] if split in SPLITS else np.full(self.batch_size, split[5:])
        # Hidden points come last, so the first are a random context and the last are targets, hidden if any are.
        keys = rng.random((self.batch_size, len(self.channels), self.window)) + self._hidden(rng, kinds)
        order = np.argpartition(keys.reshape(self.batch_size, -1), (nc, -nt), axis=1)
        chosen = np.concatenate([order[:, :nc], order[:, -nt:]], 1)
        x, y = self._look_up(trials, trial, begin, chosen)
        if split == "train" and self.gain is not None:
            factor = np.exp(rng.uniform(*np.log(self.gain), (len(y), 1, 1))) * rng.choice((-1, 1), (len(y), 1, 1))
            y = y * torch.from_numpy(factor).to(y)
        return assemble(x, y, nc)

    def plot_tasks(self, num: int) -> list[PlotTask]:
        """The first channel of `num` validation windows, from random samples of its first two thirds.

        The targets are all its samples, and the truth is what was observed. Other channels would not be told apart.
        """
        return [self._plot_task(number, nc) for number, nc in enumerate(self.plot_contexts(num))]

    def _plot_task(self, number: int, nc: int) -> PlotTask:
        rng, trials = generator(self.seed, "plot", index=number), self._part("val")
        trial, begin = (rng.integers(n, size=1) for n in (len(trials), trials.shape[2] - self.window + 1))
        seen = rng.permutation(2 * self.window // 3)[:nc]
        chosen = np.concatenate([seen, np.arange(self.window)])[None]
        batch = assemble(*self._look_up(trials, trial, begin, chosen), len(seen))
        return PlotTask(batch, "curve", truth=batch.yt)

    def _hidden(self, rng: np.random.Generator, kinds: np.ndarray) -> np.ndarray:
        """Which channels are hidden at which samples, `[b, channels, window]`."""
        b, time = len(kinds), np.arange(self.window)
        length = (rng.uniform(*self.hidden_share, (b, 1)) * self.window).astype(int)
        begin = (rng.random((b, 1)) * (self.window - length + 1)).astype(int)
        stretch = (time >= begin) & (time < begin + length)
        ranks = rng.random((b, len(self.channels))).argsort(1)
        some = ranks < rng.integers(*self.hidden_channels, size=(b, 1), endpoint=True)
        reconstruct, forecast = (kinds == kind for kind in ("reconstruction", "forecast"))
        gaps = some[:, :, None] & stretch[:, None] & reconstruct[:, None, None]
        return gaps | ((time >= self.window - length) & forecast[:, None])[:, None]

    def _look_up(
        self, trials: np.ndarray, trial: np.ndarray, begin: np.ndarray, chosen: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs `[b, n, dx]` and outputs `[b, n, 1]` of points, channel times window plus sample, `[b, n]`."""
        channel, sample = np.divmod(chosen, self.window)
        values, scaling = trials[trial[:, None], channel, begin[:, None] + sample], self.scaling
        x = np.zeros((*chosen.shape, self.dx), dtype=np.float32)
        x[..., 0] = (sample - scaling["x_shift"][0]) / scaling["x_scale"][0]
        np.put_along_axis(x, channel[..., None] + 1, 1.0, 2)
        return torch.from_numpy(x), column((values - scaling["y_shift"][0]) / scaling["y_scale"][0])

    def _part(self, split: str) -> np.ndarray:
        return self.trials[split if split in SPLITS else "test"]

    def _divide(self, subjects: list[str]) -> list[np.ndarray]:
        """The subjects of each part: a pure function of the seed and the fractions."""
        num_val, num_test = (max(1, round(len(subjects) * f)) for f in (self.val_fraction, self.test_fraction))
        if num_val + num_test >= len(subjects):
            raise DataError(
                f"expected more subjects than {num_val} for validation and {num_test} for the test, got "
                f"{', '.join(subjects)} in {self.path}: add trials of others, or lower val_fraction or test_fraction"
            )
        order = generator(self.seed, "split", index=0).permutation(subjects)
        val, test, train = np.split(order, [num_val, num_val + num_test])
        return [train, val, test]

    def _check_sizes(self) -> None:
        """Raises unless every task has enough points to see, and enough hidden ones."""
        every = len(self.channels) * self.window
        low, high = ((np.array(self.hidden_share) * self.window).astype(int)).tolist()
        hidden = {
            "interpolation": (self.num_target[1], self.num_target[1]),
            "reconstruction": (low * self.hidden_channels[0], high * self.hidden_channels[1]),
            "forecast": (low * len(self.channels), high * len(self.channels)),
        }
        if "reconstruction" in self.kinds and self.hidden_channels[1] >= len(self.channels):
            raise ConfigError(
                f"expected fewer hidden_channels than the {len(self.channels)} channels, got {self.hidden_channels[1]}"
                ": hide fewer, or leave out the kind reconstruction"
            )
        for kind in self.kinds:
            fewest, most = hidden[kind]
            if fewest < self.num_target[1] or every - most < self.num_context[1]:
                raise ConfigError(
                    f"expected {self.num_target[1]} hidden targets and {self.num_context[1]} points to see in each "
                    f"task of {kind}, got {fewest} and {every - most}: lower num_target or num_context, or change "
                    "hidden_share, hidden_channels or window"
                )

    def _settings(self, split: str) -> str:
        """Evaluation sets depend on what the files hold, not only on the folder's name."""
        content = hashlib.sha256()
        for part in self.trials.values():
            content.update(np.ascontiguousarray(part))
        return super()._settings(split) + content.hexdigest()
