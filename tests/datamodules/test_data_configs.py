"""Every data YAML builds through the parser of the command line, and yields batches that pass the contract."""

from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from datamodules import (
    EEG,
    SIR,
    DigitsData,
    Field,
    GPData,
    LongGP,
    LotkaVolterra,
    NPDataModule,
    Sawtooth,
    Series,
    Shapes,
    Wheel,
)
from tests.datamodules import samples

FOLDER = Path(__file__).parents[2] / "conf" / "data"
FILES = sorted(p for p in FOLDER.glob("*.yaml") if "datamodules." in p.read_text())


def data_class(path):
    """The name of the class that a data YAML describes."""
    return yaml.safe_load(path.read_text())["data"]["class_path"].rpartition(".")[2]


def build(path, /, **settings):
    content = yaml.safe_load(path.read_text())
    content["data"]["init_args"].update(settings)
    parser = ArgumentParser()
    parser.add_argument("--data", type=NPDataModule)
    return parser.instantiate(parser.parse_object(content)).data


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_config_yields_checked_batches(path, tmp_path):
    folder = tmp_path / "brought"
    brought = samples.settings(data_class(path), folder) | samples.settings(path.stem, folder)
    dm = build(path, cache_dir=str(tmp_path / "cache"), **brought)
    for split in ("train", "val", *dm.test_names):
        batch = dm.make_batch(split, 0).check()
        batch_size = dm.batch_size if split == "train" else getattr(dm, "eval_batch_size", dm.batch_size)
        assert batch.num_tasks == batch_size and batch_size in (8, 16, 100)
        evaluated_only = split == "train" and isinstance(dm, LongGP)  # its oracle takes longer than its tasks
        real = split not in ("train", *getattr(dm, "simulator", dm).eval_names)  # nobody knows the law of reality
        assert (batch.oracle_joint is not None) == (dm.traits["oracle"] and not evaluated_only and not real)
    assert all(task.batch.check().num_tasks == 1 for task in dm.plot_tasks(2))
    assert len(dm.plot_tasks(2)) == 2
    assert isinstance(dm.traits["description"], str)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_config_comments_every_key(path):
    lines = path.read_text().splitlines()
    keys = [line for line in lines if line.startswith("    ") and line[4] not in " #"]
    assert keys and all("#" in line or line.rstrip().endswith("kernel:") for line in keys)


def test_shipped_files():
    gaussian = {"gp_cambridge", "gp_matern", "gp_mixed", "gp_rbf", "gp_rbf_2d", "gp_rbf_3d", "gp_rbf_2out"}
    gaussian |= {"gp_student_t", "gp_heteroscedastic", "gp_gibbs", "gp_change_point", "gp_lmc", "gp_shift", "gp_long"}
    gaussian |= {"far_fact", "lookup"}
    images = {"emnist", "celeba32", "celeba64", "celeba128", "image_folder"}
    series = {"co2_from_gp", "sunspots", "sunspots_from_gp", "hare_lynx", "square", "waves_mixed", "eeg"}
    assert {p.stem for p in FILES} >= series | {"field", "terrain", "frame"}
    assert {p.stem for p in FILES} >= {"digits", "sawtooth", "shapes", "co2", "sir", "wheel"} | gaussian | images


def test_defaults_are_the_tnp_suite(tmp_path):
    """One source of truth: what `GPData` does by itself is what the YAML of the protocol says."""
    given = build(FOLDER / "gp_rbf.yaml")
    default = GPData(given.kernel, test_kernels=given.test_kernels)
    assert given.cache_file("test") == default.cache_file("test")
    others = {"digits": DigitsData, "sawtooth": Sawtooth, "shapes": Shapes, "co2": Series, "sir": SIR, "wheel": Wheel}
    others |= {"terrain": Field, "eeg": EEG, "hare_lynx": LotkaVolterra}  # the latter is that of the simulator
    for name, source in others.items():
        assert build(FOLDER / f"{name}.yaml").cache_file("test") == source().cache_file("test")
