"""The record of hares and lynxes: its numbers, its tasks, and what becomes of bad files."""

from pathlib import Path

import numpy as np
import pytest
import torch

import datamodules.hare_lynx
from datamodules import HareLynx, LotkaVolterra
from npexp.errors import ConfigError, DataError, UnknownNameError


def test_the_record():
    record = HareLynx().record
    assert record.shape == (21, 3) and record[:, 0].tolist() == list(range(21))
    assert record[3].tolist() == [3, 77.4, 35.2] and record[-1].tolist() == [20, 24.7, 8.6]
    assert record[:, 1:].mean(0).round(1).tolist() == [34.1, 20.2]
    assert record[record[:, 1:].argmax(0), 0].tolist() == [3, 4]  # lynxes peak a year after hares
    source = Path(datamodules.hare_lynx.__file__).with_name("hare_lynx.csv").read_text()
    assert "Elton" in source and "time,prey,predator\n1900,30,4\n" in source


def test_tasks_are_parts_of_the_record():
    dm = HareLynx()
    assert dm.num_batches("test") == 16 and dm.scaling == LotkaVolterra().scaling
    for index in range(16):
        batch = dm.make_batch("test", index).check()
        x, y = torch.cat([batch.xc, batch.xt], 1), torch.cat([batch.yc, batch.yt], 1)
        years = ((x[..., 0].double() + 2) * 5).round().long()
        assert 3 <= batch.xc.shape[1] <= 15 and all(len(row.unique()) == x.shape[1] <= 21 for row in years)
        np.testing.assert_allclose(y * 25 + 30, dm.record[years.numpy()][..., 1:], rtol=1e-5)
    assert torch.equal(batch.yt, HareLynx().make_batch("test", 15).yt)


def test_there_is_nothing_to_train_on():
    for split in ("train", "val"):
        with pytest.raises(ConfigError, match="give it to SimToReal"):
            HareLynx().make_batch(split, 0)
    with pytest.raises(ConfigError, match="got 16"):
        HareLynx().make_batch("test", 16)


def test_plot_tasks():
    tasks = HareLynx().plot_tasks(2)
    assert [task.batch.check().xc.shape[1] for task in tasks] == [7, 11]
    assert all(task.batch.xt.shape[1] == 21 and torch.equal(task.truth, task.batch.yt) for task in tasks)


def rows(num=21, step=1.0):
    return "".join(f"{1900 + step * i},{i + 1},{2 * i + 1}\n" for i in range(num))


def test_a_record_of_ones_own(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("# mine\npredator,time,prey\n" + "".join(f"1,{2000 - i},{i}\n" for i in range(21)))
    dm = HareLynx(str(path), cache_dir=str(tmp_path))
    assert dm.record[0].tolist() == [0, 20, 1] and dm.record[:, 1].tolist() == list(range(20, -1, -1))  # in order
    before = dm.cache_file("test")
    path.write_text("# mine\ntime,prey,predator\n" + rows())
    assert HareLynx(str(path), cache_dir=str(tmp_path)).cache_file("test") != before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "correct the path"),
        ("year,hare,lynx\n1900,30,4\n", "no column 'time'"),
        ("time,prey,predator\n1900,30,4\n1901,many,6\n", "column 'prey', row 2 of .*, got 'many'"),
        ("time,prey,predator\n1900,30,4\n1901,47,\n", "row 2 of .* has no value in column 'predator'"),
        ("time,prey,predator\n1900-01-01,30,4\n", "column 'time', row 1"),
        ("time,prey,predator\n" + rows(20), "at least 21 rows.*got 20"),
        ("time,prey,predator\n" + rows(21, 2.0), "within 20 years, got 21 rows over 40"),
        ("time,prey,predator\n" + rows(21, 0.5) + "1900,1,1\n", "different times"),
    ],
)
def test_bad_files_are_typed_errors(tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_text("# a comment\n" + content)
    for use in (lambda dm: dm.make_batch("test", 0), lambda dm: dm.cache_file("test")):
        with pytest.raises(DataError, match=message):
            use(HareLynx(str(path)))


def test_a_missing_file_is_a_typed_error():
    with pytest.raises(DataError, match="correct the path"):
        HareLynx("nowhere.csv").make_batch("test", 0)
    with pytest.raises(UnknownNameError, match="split"):
        HareLynx().check_index("fest", 0)
