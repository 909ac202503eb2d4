"""CelebA: partitions, resizing, decoding once, and what becomes of damaged files."""

import io
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import npexp
from datamodules import CelebA, RandomPixels, celeba
from datamodules.settings import describe
from npexp.errors import ConfigError, DataError
from tests.datamodules.samples import encoded, random_images, write_celeba

LIST = "list_eval_partition.txt"


@pytest.fixture
def partition(tmp_path):
    return write_celeba(tmp_path, num=24)


@pytest.fixture
def make(partition, tmp_path):
    def build(path=tmp_path, **settings):
        return CelebA(str(path), **{"num_val": 3, "cache_dir": str(tmp_path / "cache"), **settings})

    return build


def originals(path):
    with zipfile.ZipFile(path / "img_align_celeba.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        return [Image.open(io.BytesIO(archive.read(name))) for name in names]


def test_partitions_and_resizing(make, partition, tmp_path):
    """Bicubic, the whole image; the first two partitions train."""
    dm, expected = make(), np.stack([np.asarray(i.resize((32, 32), Image.BICUBIC)) for i in originals(tmp_path)])
    assert originals(tmp_path)[0].size == (178, 218) and set(partition) == {0, 1, 2}
    rows = lambda images: sorted(image.tobytes() for image in images)  # noqa: E731
    parts = {split: rows(dm.pictures(split)) for split in ("train", "val", "test")}
    assert parts["test"] == rows(expected[np.array(partition) == 2])
    assert sorted(parts["train"] + parts["val"]) == rows(expected[np.array(partition) < 2])
    assert len(parts["val"]) == 3 and len(set(parts["train"]) | set(parts["val"])) == 16
    batch = dm.make_batch("test", 0).check()
    assert batch.num_tasks == 8 and batch.yt.shape[-1] == 3 and batch.yt.abs().max() <= 0.5


def test_images_are_decoded_once(make, tmp_path, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    first = make().make_batch("train", 0)
    (kept,) = (tmp_path / "cache").glob("*.npy")
    assert kept.name.startswith("celeba-32-") and np.load(kept).shape == (24, 32, 32, 3)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir() if p.name != "cache"} == before  # read in place
    monkeypatch.setattr(celeba, "decode", None)
    assert torch.equal(make().make_batch("train", 0).yt, first.yt)
    kept.write_bytes(kept.read_bytes()[:-1])  # damaged
    with pytest.raises(TypeError, match="not callable"):
        make().make_batch("train", 0)
    monkeypatch.undo()
    assert torch.equal(make().make_batch("train", 0).yt, first.yt)
    assert not list((tmp_path / "cache").glob("*.tmp"))


@pytest.mark.parametrize("form", ["folder", "official folders"])
def test_images_may_come_in_any_form(make, tmp_path, form):
    other = tmp_path / "other"
    img, evaluation = (other / "Img", other / "Eval") if form == "official folders" else (other, other)
    img.mkdir(parents=True)
    evaluation.mkdir(exist_ok=True)
    with zipfile.ZipFile(tmp_path / "img_align_celeba.zip") as archive:
        archive.extractall(img)
    shutil.copy(tmp_path / LIST, evaluation)
    assert torch.equal(make(other).make_batch("test", 0).yt, make().make_batch("test", 0).yt)


def test_other_content_is_another_cache_file(make, tmp_path):
    before = make().cache_file("test")
    assert make().cache_file("test") == before != make(size=64).cache_file("test")
    lines = (tmp_path / LIST).read_text()
    (tmp_path / LIST).write_text(lines.replace("000024.jpg 2", "000024.jpg 0"))
    assert make().cache_file("test") != before


@pytest.mark.parametrize(("size", "budget"), [(32, 200), (64, 800), (128, 1600)])
def test_presets_are_the_published_protocol(size, budget):
    dm = npexp.build_data(f"celeba{size}")
    assert (dm.size, dm.batch_size, dm.eval_batch_size, dm.steps_per_epoch) == (size, 100, 16, 1827)
    assert describe(dm) == describe(CelebA(size=size))
    for law in (dm.context, CelebA(size=size).context):
        assert law.num_context == law.num_target == (3, budget - 4) and law.max_points == budget - 1


def test_sizes_that_nobody_published_need_a_context(make):
    with pytest.raises(ConfigError, match=r"\[32, 64, 128\], got 16"):
        make(size=16)
    assert make(size=16, context=RandomPixels((3, 9), (3, 9), None)).make_batch("train", 0).num_tasks == 100
    with pytest.raises(ConfigError, match="at most 64 points"):
        make(size=8, context=RandomPixels())


def test_a_path_is_needed(tmp_path):
    for use in (lambda dm: dm.make_batch("train", 0), lambda dm: dm.cache_file("val")):
        with pytest.raises(ConfigError, match=r"MMLab, CUHK \(Liu et al. 2015.*set data.path"):
            use(CelebA())


def rewrite(path, change):
    """The archive again, with other contents."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    change(contents)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


FIRST = "img_align_celeba/000001.jpg"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (LIST, lambda p: p.unlink(), f"got no {LIST}"),
        ("img_align_celeba.zip", lambda p: p.unlink(), "got no images"),
        ("img_align_celeba.zip", lambda p: p.write_bytes(p.read_bytes()[:-500]), "a whole ZIP archive"),
        ("img_align_celeba.zip", lambda p: rewrite(p, lambda c: c.pop(FIRST)), r"got 1 not there, first 000001\.jpg"),
        (LIST, lambda p: p.write_text(p.read_text() + "000099.jpg 0\n"), r"got 1 not there, first 000099\.jpg"),
        (LIST, lambda p: p.write_text(p.read_text()[13:]), r"got 1 not in the list, first 000001\.jpg"),
        (LIST, lambda p: p.write_text(p.read_text() + "000001.jpg 0\n"), r"got 000001\.jpg again in row 25"),
        (LIST, lambda p: p.write_text(p.read_text().replace("04.jpg 0", "04.jpg 3")), r"got '000004\.jpg 3' in row 4"),
        (LIST, lambda p: p.write_text("<html>"), r"got '<html>' in row 1"),
        (LIST, lambda p: p.write_text(p.read_text().replace(" 2", " 1")), "got none for 'test'"),
        (LIST, lambda p: p.write_text(p.read_text().replace(" 0", " 2").replace(" 1", " 2")), "num_val below 0"),
        (
            "img_align_celeba.zip",
            lambda p: rewrite(p, lambda c: c.update({FIRST: c[FIRST][:900]})),
            rf"expected an image, got {FIRST}, which cannot be read \(.*truncated",
        ),
    ],
)
def test_bad_files_are_typed_errors(make, tmp_path, name, change, message):
    change(tmp_path / name)
    with pytest.raises((DataError, ConfigError), match=message):
        make().make_batch("train", 0)
    assert not list(tmp_path.glob("cache/*.tmp"))


def test_damage_inside_an_archive_is_a_typed_error(make, tmp_path):
    path = tmp_path / "img_align_celeba.zip"
    content = bytearray(path.read_bytes())
    content[content.index(FIRST.encode()) + len(FIRST) + 700] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"to read {FIRST} in .*zip, got an error \(Bad CRC"):
        make().make_batch("train", 0)


def test_a_cache_folder_that_cannot_be_written_is_a_typed_error(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"MiB left for decoded images.*set cache_dir"):
        make(cache_dir=str(tmp_path / "file")).make_batch("train", 0)


def test_greys_become_colours(make, tmp_path):
    grey = encoded(random_images(1, 218, 178)[0])
    rewrite(tmp_path / "img_align_celeba.zip", lambda c: c.update({n: grey for n in c if n.endswith("jpg")}))
    assert np.ptp(make().pictures("train").astype(int), axis=-1).max() == 0
