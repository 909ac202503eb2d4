"""Recordings of several channels: the archive's format, subjects kept apart, what is hidden, and damaged files."""

import gzip

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, kstest

from datamodules import EEG
from datamodules.eeg import FRONTAL, KINDS
from datamodules.eeg_files import read_folder, read_sample, read_trial
from npexp.errors import ConfigError, DataError, UnknownNameError
from npexp.scaling import Scaling

CHANNELS = ("FP1", *FRONTAL)  # a trial has other channels as well
SUBJECTS = ("co2a0000364", "co2a0000365", "co2c0000337", "co2c0000338", "co3a0000448")
SMALL = {"window": 16, "num_context": (4, 9), "num_target": (3, 6), "num_test_batches": 2}


def text(values):
    """A trial in the format of the archive."""
    lines = ["# co2a0000364.rd ", "# 120 trials, 64 chans, 416 samples 368 post_stim samples", "# 3.906000 msecs uV"]
    lines.append("# S1 obj , trial 0")
    for number, (name, row) in enumerate(zip(CHANNELS, values, strict=True)):
        lines.append(f"# {name} chan {number}")
        lines += [f"0 {name} {sample} {value:.3f}" for sample, value in enumerate(row)]
    return "\n".join(lines) + "\n"


def made(subject, trial, samples=24):
    """Values that tell where they come from: thousands the subject, tens the channel, and more with time."""
    sample, channel = np.arange(samples) / 100, np.arange(len(CHANNELS))[:, None] * 10
    return SUBJECTS.index(subject) * 1000 + trial * 200 + channel + sample


@pytest.fixture
def folder(tmp_path):
    """Five subjects with two trials each, one of them compressed, in folders of their own."""
    for subject in SUBJECTS:
        (tmp_path / "eeg" / subject).mkdir(parents=True)
        content = [text(made(subject, trial)) for trial in range(2)]
        (tmp_path / "eeg" / subject / f"{subject}.rd.000").write_text(content[0])
        (tmp_path / "eeg" / subject / f"{subject}.rd.001.gz").write_bytes(gzip.compress(content[1].encode()))
    (tmp_path / "eeg" / "README").write_text("not a trial")
    return tmp_path / "eeg"


def test_files_are_read_as_they_are(folder):
    subjects, trials = read_folder(str(folder), FRONTAL)
    assert subjects == [subject for subject in SUBJECTS for _ in range(2)] and trials.shape == (10, 7, 24)
    for number, trial in enumerate(trials):
        np.testing.assert_allclose(trial, made(subjects[number], number % 2)[1:], atol=6e-4)
    backwards = read_folder(str(folder), ("F6", "FZ"))[1]
    np.testing.assert_array_equal(backwards, trials[:, [6, 0]])


def test_training_windows_vary_in_gain_and_nothing_else_does():
    plain, varied = (EEG(batch_size=500, gain=gain) for gain in (None, (0.5, 4.0)))
    before, after = (dm.make_batch("train", 0) for dm in (plain, varied))
    factor = torch.cat([after.yc, after.yt], 1) / torch.cat([before.yc, before.yt], 1)
    factor = torch.nanmedian(factor[..., 0], 1, keepdim=True)[0]
    torch.testing.assert_close(after.yc[..., 0], factor * before.yc[..., 0])
    torch.testing.assert_close(after.yt[..., 0], factor * before.yt[..., 0])
    assert torch.equal(after.xt, before.xt) and torch.equal(after.xc, before.xc)
    sizes = factor[:, 0].abs().double().log2().numpy()
    assert kstest(sizes, "uniform", args=(-1, 3)).pvalue > 1e-3
    assert binomtest(int((factor > 0).sum()), 500).pvalue > 1e-3
    assert torch.equal(plain.make_batch("test", 0).yt, varied.make_batch("test", 0).yt)


def raw(dm, batch):
    """Samples, channels and values of all points, in the units of the files, `[b, n]` each."""
    scaling = Scaling.make(dm.scaling, dm.dx, dm.dy)
    x, y = torch.cat([batch.xc, batch.xt], 1).double(), torch.cat([batch.yc, batch.yt], 1).double()
    place = x * torch.tensor(scaling.x_scale) + torch.tensor(scaling.x_shift)
    assert (x[..., 1:].sum(-1) == 1).all() and ((x[..., 1:] == 0) | (x[..., 1:] == 1)).all()
    values = y * scaling.y_scale[0] + scaling.y_shift[0]
    return place[..., 0].numpy(), x[..., 1:].argmax(-1).numpy(), values[..., 0].numpy()


def test_points_are_pairs_of_time_and_channel(folder):
    dm = EEG(str(folder), **SMALL)
    assert dm.dx == 8 and dm.dy == 1
    for index in range(10):
        batch = dm.make_batch("train", index).check()
        sample, channel, values = raw(dm, batch)
        np.testing.assert_allclose(sample, sample.round(), atol=1e-5)
        assert batch.xc[..., 0].min() >= -2 and batch.xc[..., 0].max() <= 2
        begin = (values * 100).round() % 1000 - sample.round()  # of the window in its trial
        assert (begin == begin[:, :1]).all() and begin.min() >= 0 and begin.max() <= 8
        np.testing.assert_array_equal((values + 0.001) % 200 // 10, channel + 1)
        points = sample.round() * 7 + channel
        assert all(len(set(row)) == len(row) for row in points)


def test_subjects_are_kept_apart(folder):
    dm, seen = EEG(str(folder), **SMALL), {}
    for split in ("train", "val", "test", *(f"test_{kind}" for kind in KINDS)):
        values = np.concatenate([raw(dm, dm.make_batch(split, i))[2].ravel() for i in range(2)])
        seen[split] = set((values // 1000).astype(int).tolist())
    assert len(seen["train"]) == 3 and len(seen["val"]) == 1 and len(seen["test"]) == 1
    assert set.union(seen["train"], seen["val"], seen["test"]) == set(range(5))
    assert all(seen[f"test_{kind}"] == seen["test"] for kind in KINDS)
    own = dm.trials["train"]
    assert dm.scaling["y_shift"] == [own.mean()] and dm.scaling["y_scale"] == [own.std()]
    others = {tuple(EEG(str(folder), seed=seed, **SMALL).trials["test"][0, 0, :1]) for seed in range(6)}
    assert len(others) > 1


def tasks(kind, **settings):
    """Windows of the sample as tasks of one kind: samples and channels of contexts and of targets."""
    dm = EEG(kinds=[kind], num_context=(40, 40), num_target=(30, 30), window=64, **settings)
    assert dm.test_names == ("test",)
    for index in range(20):
        sample, channel, _ = raw(dm, dm.make_batch("train", index))
        for s, c in zip(sample.round().astype(int), channel, strict=True):
            yield s[:40], c[:40], s[40:], c[40:]


def test_interpolation_targets_are_anywhere():
    before = [(st.mean() - s.mean(), set(ct)) for s, _, st, ct in tasks("interpolation")]
    assert abs(np.mean([b for b, _ in before])) < 1 and all(len(channels) == 4 for _, channels in before)


def test_reconstruction_hides_a_stretch_of_some_channels():
    numbers = []
    for s, c, st, ct in tasks("reconstruction", hidden_share=(0.25, 0.4), hidden_channels=(2, 3)):
        hidden = set(ct)
        numbers.append(len(hidden))
        assert len(hidden) in (2, 3) and st.max() - st.min() < 0.4 * 64
        gap = (s >= st.min()) & (s <= st.max()) & np.isin(c, list(hidden))
        assert not gap.any() and (set(c) - hidden or len(hidden) == 3)
    assert {2, 3} == set(numbers)


def test_forecasts_are_later_than_all_of_the_context():
    for s, _, st, ct in tasks("forecast", hidden_share=(0.25, 0.4)):
        assert s.max() < st.min() and st.min() >= 64 - 0.4 * 64 - 1 and len(set(ct)) == 4


def test_the_sample_is_divided_in_time():
    dm, recording = EEG(), read_sample()
    assert recording.shape == (4, 800) and dm.dx == 5
    parts = [dm.trials[split][0] for split in ("train", "val", "test")]
    assert [part.shape for part in parts] == [(4, 480), (4, 160), (4, 160)]
    np.testing.assert_array_equal(np.concatenate(parts, 1), recording)
    for split in ("train", *dm.eval_names):
        batch = dm.make_batch(split, 0).check()
        assert torch.equal(batch.yt, EEG().make_batch(split, 0).yt)
    two = EEG(channels=["PG7", "PG3"], hidden_channels=(1, 1), num_target=(8, 16))
    np.testing.assert_array_equal(two.trials["val"][0], parts[1][[2, 0]])


def test_another_content_is_another_cache_file(folder, tmp_path):
    files = [EEG(str(folder), cache_dir=str(tmp_path), **SMALL).cache_file("test") for _ in range(2)]
    path = folder / SUBJECTS[0] / f"{SUBJECTS[0]}.rd.000"
    path.write_text(path.read_text().replace("0 FZ 3 10.030", "0 FZ 3 11.030"))
    assert files[0] == files[1] != EEG(str(folder), cache_dir=str(tmp_path), **SMALL).cache_file("test")


def test_plot_tasks(folder):
    for dm in (EEG(), EEG(str(folder), **SMALL)):
        for task in dm.plot_tasks(2):
            batch = task.batch.check()
            assert task.kind == "curve" and batch.xt.shape[1] == dm.window and torch.equal(task.truth, batch.yt)
            assert (
                (batch.xc[..., 1] == 1).all()
                and batch.xc[..., 0].max() < 2 / 3
                and (batch.xt.diff(dim=1)[..., 0] > 0).all()
            )


def test_trials_without_rows_are_named(folder):
    (folder / "co2c1000367.rd.005").write_text("# co2c1000367.rd\n# no rows\n")
    with pytest.warns(UserWarning, match=r"left out 1 trials without rows: co2c1000367\.rd\.005"):
        assert len(read_folder(str(folder), FRONTAL)[1]) == 10


@pytest.mark.parametrize(
    ("find", "replace", "message"),
    [
        ("0 F3 5 40.050", "0 F3 5 much", r"got '0 F3 5 much' in line \d+ of .*bad\.rd\.000"),
        ("0 F3 5 40.050", "0 F3 5", "expected rows of trial, channel, sample and value, got '0 F3 5' in line"),
        ("0 F3 5 40.050", "0 F3 5 40.050 1", "got '0 F3 5 40.050 1' in line"),
        ("0 F3 5 40.050", "0 F3 5 nan", "got '0 F3 5 nan' in line"),
        ("0 F3 5 40.050\n", "", r"expected samples 0 to 23 of channel F3, got 23 rows from 0 to 23 in .*bad\.rd\.000"),
        ("0 FZ 0 10.000\n", "", "expected samples .* of channel FZ, got 23 rows from 1 to 23"),
        (" F3 ", " F33 ", "expected channel F3 in .*; did you mean"),
    ],
)
def test_bad_rows_are_typed_errors(tmp_path, find, replace, message):
    path, content = tmp_path / "bad.rd.000", text(made(SUBJECTS[0], 0))
    assert find in content
    path.write_text(content.replace(find, replace))
    with pytest.raises(DataError, match=message):
        read_trial(path, FRONTAL)


def test_truncated_archives_are_typed_errors(folder):
    path = folder / SUBJECTS[0] / f"{SUBJECTS[0]}.rd.001.gz"
    whole = path.read_bytes()
    for content in (whole[:-20], whole[: len(whole) // 2], b"not gzip", whole[:50] + b"\xff" * 50 + whole[100:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"expected a whole gzip file, got .*\.rd\.001\.gz"):
            EEG(str(folder), **SMALL).make_batch("train", 0)


def test_bad_folders_are_typed_errors(folder, tmp_path):
    (tmp_path / "none").mkdir()
    for path in (None, str(tmp_path / "nowhere"), str(folder / "README")):
        with pytest.raises(DataError, match=r"expected a folder with trials of the EEG Database .* correct the path"):
            EEG(path).make_batch("train", 0)
    with pytest.raises(DataError, match=r"expected files such as .* unpack the archives"):
        EEG(str(tmp_path / "none")).cache_file("test")
    with pytest.raises(DataError, match="more subjects than 1 for validation and 1 for the test, got co2a0000364"):
        EEG(str(folder / SUBJECTS[0]), **SMALL).make_batch("train", 0)
    (folder / "co2a0000370.rd.000").write_text(text(made(SUBJECTS[0], 0, samples=20)))
    with pytest.raises(DataError, match=r"expected 24 samples per channel .* got 20 in .*co2a0000370\.rd\.000"):
        EEG(str(folder), **SMALL).make_batch("train", 0)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"kinds": ["forcast"]}, UnknownNameError, "did you mean 'forecast'"),
        ({"kinds": []}, ConfigError, "different kinds of tasks, at least one"),
        ({"kinds": ["forecast", "forecast"]}, ConfigError, "different kinds of tasks"),
        ({"channels": ["FZ"]}, UnknownNameError, "unknown channel 'FZ'; known: PG3"),
        ({"channels": ["PG3", "PG3"]}, ConfigError, "name each once"),
        ({"hidden_channels": (2, 4)}, ConfigError, "fewer hidden_channels than the 4 channels, got 4"),
        ({"hidden_share": (0.1, 1.0)}, ConfigError, "hidden_share below 1"),
        ({"gain": (0.0, 2.0)}, ConfigError, "gain"),
        (
            {"num_target": (32, 200)},
            ConfigError,
            "200 hidden targets and 128 points to see in each task of reconstruct",
        ),
        ({"num_context": (32, 400)}, ConfigError, "lower num_target or num_context"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, ConfigError, "sum of at most 0.99"),
        ({"window": 1}, ConfigError, "window"),
    ],
)
def test_bad_settings_are_typed_errors(settings, error, message):
    with pytest.raises(error, match=message):
        EEG(**settings)


def test_windows_must_fit_into_trials():
    with pytest.raises(ConfigError, match="at least 161 samples, as the window has, got 160 in the val part of sample"):
        EEG(window=161).make_batch("train", 0)
