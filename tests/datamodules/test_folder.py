"""Any folder of images: what is taken, how it is converted, and what is refused by name."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import npexp
from datamodules import ImageFolder, RandomPixels
from datamodules.settings import describe
from npexp.errors import ConfigError, DataError
from tests.datamodules.samples import encoded, random_images

FEW = RandomPixels((3, 9), (3, 9), None)


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures, two in a folder below, and a hidden file."""
    place = tmp_path / "images"
    (place / "more").mkdir(parents=True)
    for number, image in enumerate(random_images(12, 9, 7, (3,))):
        (place / ("more" if number > 9 else ".") / f"{number:02d}.png").write_bytes(encoded(image, "PNG"))
    (place / ".hidden").write_text("not an image")
    return place


@pytest.fixture
def make(folder, tmp_path):
    def build(path=folder, **settings):
        return ImageFolder(str(path), **{"context": FEW, "cache_dir": str(tmp_path / "cache"), **settings})

    return build


def everything(dm):
    """All images in the order of their names."""
    return dm.parts["train"].values


def test_the_yaml_says_what_the_class_does_by_itself():
    assert describe(npexp.build_data("image_folder")) == describe(ImageFolder())


def test_images_as_they_are(make):
    assert np.array_equal(everything(make()), random_images(12, 9, 7, (3,))) and make().image_shape == (9, 7)
    assert len(everything(make(pattern="0[0-4].png"))) == 5


def test_an_archive_is_read_in_place(make, folder, tmp_path):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, f"photos/{file.relative_to(folder)}")
        archive.writestr("__MACOSX/photos/._00.png", "hidden")
    assert np.array_equal(everything(make(path)), everything(make()))
    assert torch.equal(make(path).make_batch("train", 2).yt, make().make_batch("train", 2).yt)


def test_images_can_be_resized(make, folder):
    dm = make(size=(6, 5))
    first = Image.open(folder / "00.png").resize((5, 6), Image.BICUBIC)
    assert dm.image_shape == (6, 5) and np.array_equal(everything(dm)[0], np.asarray(first))


def test_greys_and_colours(make, folder):
    grey = random_images(1, 9, 7)[0]
    (folder / "00.png").write_bytes(encoded(grey, "PNG"))
    assert np.array_equal(everything(make())[0], grey[..., None].repeat(3, -1))
    dm = make(colour=False)
    assert dm.dy == 1 and np.array_equal(everything(dm)[0, ..., 0], grey)
    luminance = random_images(12, 9, 7, (3,))[1] @ [0.299, 0.587, 0.114]
    assert abs(everything(dm)[1, ..., 0] - luminance).max() < 1
    assert dm.make_batch("train", 0).check().yt.shape[-1] == 1


def test_photographs_stand_upright(make, folder):
    picture, file = Image.fromarray(random_images(1, 7, 9, (3,))[0]), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.save(file, "PNG", exif=exif)
    (folder / "00.png").write_bytes(file.getvalue())
    assert np.array_equal(everything(make())[0], np.rot90(np.asarray(picture), -1))


def test_other_content_is_another_cache_file(make, folder):
    before = make().cache_file("test")
    assert make().cache_file("test") == before != make(pattern="0*").cache_file("test")
    (folder / "00.png").write_bytes(encoded(random_images(1, 9, 7, (3,))[0], "PNG"))
    assert make().cache_file("test") != before


def opaque(alpha):
    image = np.concatenate([random_images(1, 9, 7, (3,))[0], np.full((9, 7, 1), alpha, np.uint8)], -1)
    return encoded(image, "PNG")


def test_an_opaque_alpha_channel_does_no_harm(make, folder):
    (folder / "00.png").write_bytes(opaque(255))
    assert np.array_equal(everything(make())[0], random_images(1, 9, 7, (3,))[0])


def film():
    file = io.BytesIO()
    frames = [Image.fromarray(image) for image in random_images(3, 9, 7)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", lambda: b"to do", r"expected an image, got notes\.txt, which cannot be read"),
        ("05.png", lambda: b"", r"expected an image, got 05\.png"),
        ("05.png", lambda: encoded(random_images(1, 9, 7, (3,))[0], "PNG")[:120], r"expected an image, got 05\.png"),
        ("05.png", lambda: encoded(random_images(1, 9, 8, (3,))[0], "PNG"), r"\(9, 8\) in 05\.png and \(9, 7\) in 00"),
        ("05.png", lambda: opaque(200), r"got transparency in 05\.png"),
        ("05.png", lambda: encoded(random_images(1, 9, 7)[0].astype(np.uint16), "PNG"), r"got mode I;16 in 05\.png"),
        ("05.gif", film, r"got 3 frames in 05\.gif"),
    ],
)
def test_what_is_no_image_is_refused_by_name(make, folder, tmp_path, name, content, message):
    (folder / name).write_bytes(content())
    with pytest.raises(DataError, match=message):
        make().make_batch("train", 0)
    assert not list(tmp_path.glob("cache/*"))


def test_folders_without_enough_images(make, tmp_path):
    (tmp_path / "empty").mkdir()
    for settings in ({"path": tmp_path / "empty"}, {"pattern": "*.jpg"}):
        with pytest.raises(DataError, match=r"images named .* got none"):
            make(**settings).make_batch("train", 0)
    with pytest.raises(DataError, match="got none for 'train'"):
        make(pattern="0[01].png").make_batch("train", 0)
    with pytest.raises(DataError, match="got nothing at"):
        make(tmp_path / "nowhere").cache_file("val")
    with pytest.raises(ConfigError, match=r"set data\.path"):
        ImageFolder().make_batch("train", 0)


def test_images_with_too_few_pixels(make, folder):
    with pytest.raises(ConfigError, match=r"at most 63 points, .* 9 x 7, got 199"):
        make(context=RandomPixels()).make_batch("train", 0)
    with pytest.raises(ConfigError, match="at most 63 points"):
        make(context=RandomPixels(), size=(9, 7))  # known at once
    for file in folder.rglob("*.png"):
        file.write_bytes(encoded(random_images(1, 1, 63, (3,))[0], "PNG"))
    with pytest.raises(DataError, match="2 x 2 pixels or more"):
        make().make_batch("train", 0)


@pytest.mark.parametrize("settings", [{"size": (9, 1)}, {"size": (9, 7, 3)}, {"val_fraction": 0.0}])
def test_bad_settings_are_typed_errors(make, settings):
    with pytest.raises(ConfigError, match=r"expected .* got"):
        make(**settings)
