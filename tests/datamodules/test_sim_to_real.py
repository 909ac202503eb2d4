"""A simulator with real tests: which source each split comes from, units, cache files, and mismatches."""

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules import RBF, GPData, HareLynx, LotkaVolterra, Sawtooth, Series, Shapes, SimToReal
from npexp.errors import ConfigError, DataError, UnknownNameError

SIZES = {"num_context": (2, 8), "num_target": (3, 8), "max_points": None, "num_test_batches": 3}


@pytest.fixture
def make(tmp_path):
    """A Gaussian process and a series of 600 values in a file, which `values` replaces."""

    def build(values=None, scale=1.0, **settings):
        times = np.arange(600.0)
        path = tmp_path / "series.csv"
        pd.DataFrame({"time": times, "value": np.sin(times) + 7 if values is None else values}).to_csv(
            path, index=False
        )
        series = Series(str(path), window=30.0, num_blocks=1, **SIZES)
        simulator = GPData(RBF(scale=(scale, scale)), num_val_batches=2, **SIZES)
        return SimToReal(simulator, {"mine": series}, **{"cache_dir": str(tmp_path), **settings})

    return build


def test_each_split_is_of_its_source(make):
    dm = make()
    assert dm.test_names == ("test", "test_mine") and (dm.dx, dm.dy, dm.batch_size) == (1, 1, 16)
    assert [dm.num_batches(split) for split in dm.eval_names] == [2, 3, 3]
    for split, source, own in (
        ("train", dm.simulator, "train"),
        ("val", dm.simulator, "val"),
        ("test", dm.simulator, "test"),
        ("test_mine", dm.real["mine"], "test"),
    ):
        one, other = dm.make_batch(split, 1).check(), source.make_batch(own, 1)
        assert torch.equal(one.yc, other.yc) and torch.equal(one.xt, other.xt)
    assert dm.oracle and dm.make_batch("test", 0).oracle_joint is not None
    with pytest.raises(UnknownNameError, match="test_mine"):
        dm.make_batch("test_other", 0)
    with pytest.raises(ConfigError, match="got 3"):
        dm.make_batch("test_mine", 3)


def test_the_simulators_own_test_sets_stay(make):
    simulator = GPData(RBF(), test_kernels={"short": RBF((0.1, 0.2))}, **SIZES)
    dm = SimToReal(simulator, make().real)
    assert dm.test_names == ("test", "test_short", "test_mine")
    assert torch.equal(dm.make_batch("test_short", 0).yt, simulator.make_batch("test_short", 0).yt)
    with pytest.raises(ConfigError, match="a name of its own, got 'test_short' twice"):
        SimToReal(simulator, {"short": make().real["mine"]})


def test_units_are_those_of_the_real_source(make):
    dm = make()
    assert dm.scaling == dm.real["mine"].scaling and dm.scaling["y_shift"][0] == pytest.approx(7, abs=0.1)
    assert SimToReal(LotkaVolterra(), {"record": HareLynx()}).scaling == LotkaVolterra.scaling
    other = Series(window=2.0)
    assert SimToReal(dm.simulator, {"mine": dm.real["mine"], "co2": other}).scaling is None
    with pytest.raises(ConfigError, match="a simulator that scales as the real sources do"):
        _ = SimToReal(other, dm.real).scaling


def test_cache_files_follow_the_settings_of_both_sources(make):
    files = {split: make().cache_file(split) for split in ("val", "test", "test_mine")}
    assert len(set(files.values())) == 3
    again = make(num_workers=1)
    assert {split: again.cache_file(split) for split in files} == files
    simulated = make(scale=0.5)
    assert simulated.cache_file("test") != files["test"] and simulated.cache_file("test_mine") == files["test_mine"]
    real = make(values=np.cos(np.arange(600.0)))
    assert real.cache_file("test") == files["test"] and real.cache_file("test_mine") != files["test_mine"]


def test_loaders(make):
    dm = make()
    dm.prepare_data()
    loaders = dm.test_dataloader()
    assert [len(list(loader)) for loader in loaders] == [3, 3]
    assert torch.equal(next(iter(loaders[1])).yt, dm.real["mine"].make_batch("test", 0).yt)
    assert dm.cache_file("test_mine").is_file()
    assert torch.equal(make().eval_batches("test_mine")[2].yt, dm.eval_batches("test_mine")[2].yt)


def test_plot_tasks_are_of_both(make):
    tasks = make().plot_tasks(3)
    assert [task.mean is not None for task in tasks] == [True, True, False]
    assert all(task.batch.check().num_tasks == 1 for task in tasks)


@pytest.mark.parametrize(
    ("real", "message"),
    [
        ({}, "at least one real source"),
        ({"CO2": Series()}, "in a-z, 0-9 and _, got 'test_CO2'"),
        ({"images": Shapes()}, "'images' with dx = 1 and dy = 1 as the simulator has, got 2 and 1"),
        ({"record": HareLynx()}, "got 1 and 2"),
    ],
)
def test_mismatches_are_typed_errors(real, message):
    with pytest.raises(ConfigError, match=message):
        SimToReal(Sawtooth(), real)


def test_a_lost_file_is_a_typed_error():
    with pytest.raises(DataError, match="correct the path"):
        SimToReal(Sawtooth(), {"lost": Series("nowhere.csv")}).cache_file("test_lost")
