"""Reading electroencephalograms: folders of the EEG Database in its text format, and the recording in matplotlib."""

import gzip
import re
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.base import progress
from npexp.errors import DataError, suggest

SOURCE = "the EEG Database of the UCI archive (Begleiter 1999, https://archive.ics.uci.edu/dataset/121/eeg+database)"
SAMPLE_CHANNELS = ("PG3", "PG5", "PG7", "PG9")


def read_sample() -> np.ndarray:
    """The recording that matplotlib ships: four channels with 800 samples each, standardised, `[4, 800]`."""
    from matplotlib import get_data_path

    return np.fromfile(Path(get_data_path()) / "sample_data" / "eeg.dat").reshape(-1, len(SAMPLE_CHANNELS)).T


def read_folder(path: str | None, channels: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The subject of each trial, and what its channels have measured, `[trials, channels, samples]`, microvolts.

    Trials without any row are left out with a warning: the archive has 17 of them.

    Args:
        path: a folder with files such as co2a0000364.rd.000 or co2a0000364.rd.000.gz in it, or in folders in it.
        channels: names of channels, in the order wanted.

    Raises:
        DataError: no folder, no files, or a file that is damaged or not in the format.
    """
    if path is None or not Path(path).is_dir():
        raise DataError(f"expected a folder with trials of {SOURCE}, got {path}: correct the path")
    files = sorted(p for p in Path(path).rglob("*.rd.*") if re.fullmatch(r"\w+\.rd\.\d+(\.gz)?", p.name))
    if not files:
        raise DataError(
            f"expected files such as co2a0000364.rd.000 or co2a0000364.rd.000.gz in {path}, got none: unpack the "
            f"archives of {SOURCE} there"
        )
    subjects, trials, empty = [], [], []
    for number in progress(len(files), f"reading {len(files)} trials"):
        trial = read_trial(files[number], channels)
        if trial is None:
            empty.append(files[number].name)
            continue
        if trials and trial.shape != trials[0].shape:
            raise DataError(
                f"expected {trials[0].shape[1]} samples per channel as in the other trials, got {trial.shape[1]} in "
                f"{files[number]}: remove the file, or keep trials of one length in a folder"
            )
        subjects.append(files[number].name.partition(".")[0])
        trials.append(trial)
    if empty:
        warnings.warn(f"left out {len(empty)} trials without rows: {', '.join(empty)}", stacklevel=2)
    if not trials:
        raise DataError(f"expected trials with rows in {path}, got {len(empty)} empty files: unpack the archives again")
    return subjects, np.stack(trials)


def read_trial(path: Path, channels: Sequence[str]) -> np.ndarray | None:
    """What the channels have measured in one trial, `[channels, samples]`; None for a file without rows.

    Raises:
        DataError: the file is damaged, a channel is missing, its samples do not count up from 0, or its rows are not
            "trial channel sample value".
    """
    try:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:  # what gzip raises for files that are cut off or no archives
        raise DataError(f"expected a whole gzip file, got {path} ({error}): fetch it again") from error
    if not re.search(rb"^[^#\s]", text, re.MULTILINE):
        return None
    names = b"|".join(re.escape(channel).encode() for channel in channels)
    # Rows of other channels are passed over: they are nine tenths of a file.
    found = re.findall(rb"^\d+ +(%s) +(\d+) +(\S+)[ \r]*$" % names, text, re.MULTILINE)
    rows = []
    for channel in channels:
        own = [(sample, value) for name, sample, value in found if name == channel.encode()]
        try:
            numbers = np.array(own, dtype=np.float64).reshape(-1, 2)
        except ValueError:
            numbers = np.empty((0, 2))
        length = len(rows[0]) if rows else len(numbers)
        counts_up = len(numbers) == length > 0 and (numbers[:, 0] == np.arange(length)).all()
        if not (counts_up and np.isfinite(numbers).all()):
            raise _complaint(path, text, channel, length)
        rows.append(numbers[:, 1])
    return np.stack(rows)


def _complaint(path: Path, text: bytes, channel: str, length: int) -> DataError:
    """What is wrong with a channel in a file, with the line where it shows."""
    lines = [(n, line.split()) for n, line in enumerate(text.decode(errors="replace").splitlines(), 1)]
    table = [(n, words) for n, words in lines if words and words[0][0] != "#"]
    for number, words in table:
        if len(words) != 4 or not (words[2].isdecimal() and _is_number(words[3])):
            return DataError(
                f"expected rows of trial, channel, sample and value, got '{' '.join(words)}' in line {number} of "
                f"{path}: correct the row, or remove the file"
            )
    names = {words[1] for _, words in table}
    if channel not in names:
        return DataError(f"expected channel {channel} in {path}, got others; {suggest(channel, names)}")
    samples = [int(words[2]) for _, words in table if words[1] == channel]
    ends = f"0 to {length - 1}" if length else "from 0 upwards"
    return DataError(
        f"expected samples {ends} of channel {channel}, got {len(samples)} rows from {samples[0]} to {samples[-1]} in "
        f"{path}: fetch the file again, or remove it"
    )


def _is_number(word: str) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except ValueError:
        return False
