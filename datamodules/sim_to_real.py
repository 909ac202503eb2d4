"""Training on simulations alone, testing on reality: one source that holds a simulator and real data."""

from collections.abc import Mapping

from datamodules.base import NPDataModule, PlotTask
from datamodules.gp import check_names
from npexp.batch import TaskBatch
from npexp.errors import ConfigError


class SimToReal(NPDataModule):
    """A simulator to train and validate on, and real data that are seen in tests only.

    Use it where there is too little real data to train on and something is known about it: a Gaussian process with the
    right period, or the equations of a process. Training, validation and "test" are the simulator's; the "test" split
    of each real source becomes the test set "test_<name>", so the gap between both is what the simulator gets wrong.
    Sizes, seed and batches are those of the sources.

    A model takes real inputs and outputs as the real source scales them, and so must the simulator make them: `Series`
    standardises values and maps a window to [-2, 2], so a Gaussian process is to be given for these; `LotkaVolterra`
    and `HareLynx` share fixed units. `scaling` is that of the real sources, and a predictor takes and gives their raw
    units; where they differ it is None, as a checkpoint has one only, and predictors take scaled values.

    Args:
        simulator: what training, validation and "test" are made by.
        real: name to real source.
        num_workers: processes that prepare training batches.
        cache_dir: where evaluation sets are kept; None for `$XDG_CACHE_HOME/npexp` or `~/.cache/npexp`.

    Raises:
        ConfigError: no real source, a bad name, sources of other input or output sizes, or, when `scaling` is asked
            for, a simulator with a scaling that no real source has.
    """

    def __init__(
        self,
        simulator: NPDataModule,
        real: dict[str, NPDataModule],
        num_workers: int = 0,
        cache_dir: str | None = None,
    ):
        self._check_sources(simulator, real)
        super().__init__(
            simulator.dx,
            simulator.dy,
            simulator.batch_size,
            simulator.steps_per_epoch,
            simulator.seed,
            num_workers,
            cache_dir,
            (*simulator.test_names, *(f"test_{name}" for name in real)),
        )
        self.simulator, self.real = simulator, real
        self.oracle = simulator.oracle

    @property
    def scaling(self) -> dict[str, list[float]] | None:
        """That of the real sources, None where they differ."""
        first, *others = [source.scaling for source in self.real.values()]
        if self.simulator.scaling not in (None, first, *others):
            raise ConfigError(
                f"expected a simulator that scales as the real sources do, got {self.simulator.scaling} and {first}: "
                "give both the same units"
            )
        return first if all(other == first for other in others) else None

    def make_batch(self, split: str, index: int) -> TaskBatch:
        self.check_index(split, index)
        source, own = self._source(split)
        return source.make_batch(own, index)

    def num_batches(self, split: str) -> int:
        source, own = self._source(split)
        return source.num_batches(own)

    def plot_tasks(self, num: int) -> list[PlotTask]:
        """Simulated tasks, then as many real ones, of the first real source."""
        return [*self.simulator.plot_tasks(num - num // 2), *next(iter(self.real.values())).plot_tasks(num // 2)]

    def _source(self, split: str) -> tuple[NPDataModule, str]:
        """Where a split comes from, and what it is called there."""
        name = split.removeprefix("test_")
        return (self.real[name], "test") if name in self.real and name != split else (self.simulator, split)

    def _settings(self, split: str) -> str:
        """Those of the split's own source, with what its files hold."""
        source, own = self._source(split)
        return source._settings(own)

    @staticmethod
    def _check_sources(simulator: NPDataModule, real: Mapping[str, NPDataModule]) -> None:
        if not real:
            raise ConfigError("expected at least one real source, got none: name one, or use the simulator alone")
        check_names([*simulator.test_names, *(f"test_{name}" for name in real)])
        for name, source in real.items():
            if (source.dx, source.dy) != (simulator.dx, simulator.dy):
                raise ConfigError(
                    f"expected real source '{name}' with dx = {simulator.dx} and dy = {simulator.dy} as the simulator "
                    f"has, got {source.dx} and {source.dy}: let both have the same columns"
                )
