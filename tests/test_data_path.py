"""That the fast way gives the samples of the plain way, and a large set starts at once and is checked."""

import pickle
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from dataset import DataError, base, build_dataset, images, png
from dataset.beside import ChecksBeside
from dataset.names import Names
from dataset.sampling import TrainingStream
from tests.conftest import (
    LABEL_IDS,
    TRAIN_IDS,
    TRAINING,
    cityscapes_names,
    label_blocks,
    one_line_error,
    picture,
    save_png,
    write_cityscapes,
    write_gta5,
)


@pytest.fixture(params=["kornia-rs", "Pillow"])
def decoder(request, monkeypatch):
    """Either decoder of PNGs."""
    if request.param == "Pillow":
        monkeypatch.setattr(png, "decode_8_bits", None)
        monkeypatch.setattr(png, "decode_16_bits", None)
    elif png.decode_8_bits is None:
        pytest.skip("kornia-rs is not installed")


# The samples


def reference(pixels, ids, input_size, crop_size, rng, scale, search):
    """A sample made the plain way: everything resized, then cropped, padded and mirrored."""
    factor = rng.uniform(0.8, 1.2) if scale else 1.0
    height, width = (max(1, round(factor * side)) for side in input_size)
    resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    rows = ((np.arange(height) + 0.5) * ids.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * ids.shape[1] / width).astype(int)
    train_ids = np.vectorize(lambda i: TRAIN_IDS.get(i, 255))(ids)[rows][:, columns]
    for _ in range(11 if search else 1):
        top = rng.integers(max(0, height - crop_size[0]) + 1)
        left = rng.integers(max(0, width - crop_size[1]) + 1)
        image = np.empty((*crop_size, 3), int)
        image[:] = (123, 117, 104)
        label = np.full(crop_size, 255)
        kept = np.s_[top : top + crop_size[0], left : left + crop_size[1]]
        inside = np.s_[: train_ids[kept].shape[0], : train_ids[kept].shape[1]]
        image[inside], label[inside] = resized[kept], train_ids[kept]
        if len(np.unique(label)) > 10:
            break
    if search and rng.random() < 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    return image, label


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(
    ("input_size", "crop_size"),
    [
        ((150, 270), (64, 96)),  # reduced
        ((400, 700), (64, 96)),  # enlarged
        ((150, 270), (150, 270)),  # about the crop's size: padded or not, by the scale
        ((60, 150), (64, 96)),  # padded below or not
        ((90, 96), (64, 96)),  # padded at a side or not
        ((30, 40), (64, 96)),
    ],
)
def test_samples_are_those_of_the_plain_way_up_to_one_grey_level(
    decoder, labelled, input_size, crop_size, tmp_path
):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(picture(rng, (42, 76)))
    pixels = np.asarray(noise.resize((380, 210), Image.Resampling.BICUBIC))
    ids = label_blocks(rng, (210, 380), (*LABEL_IDS[:13], 0), block=23)
    save_png(tmp_path / "images" / "00001.png", pixels)
    save_png(tmp_path / "labels" / "00001.png", ids, palette=[0] * 768)
    data = build_dataset(
        "gta5", tmp_path, input_size=input_size, crop_size=crop_size, labelled_stream=labelled
    )
    for seed in range(12):
        options = dict(rng=np.random.default_rng(seed), scale=labelled, search=labelled)
        image, label = reference(pixels, ids, input_size, crop_size, **options)
        sample = data.sample(0, np.random.default_rng(seed))
        assert sample["image"].dtype == sample["label"].dtype == torch.uint8
        # Pillow rounds between rows and columns and takes those first that it thinks are cheaper.
        far = np.abs(sample["image"].numpy() - image)
        assert far.max() <= 2 and np.mean(far > 1) < 1e-3
        assert np.array_equal(sample["label"], label)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1"])
@pytest.mark.parametrize("ending", ["png", "webp", "bmp"])
def test_any_kind_of_file_gives_the_pixels_that_pillow_gives(decoder, mode, ending, tmp_path):
    if ending != "png" and mode not in ("RGB", "L"):
        pytest.skip("not a mode of this format")
    path = tmp_path / f"image.{ending}"
    image = Image.fromarray(picture(np.random.default_rng(0), (40, 56))).convert(mode)
    image.save(path, **({"lossless": True} if ending == "webp" else {}))
    whole = np.asarray(Image.open(path).convert("RGB"))
    assert np.array_equal(images.decode_image(path), whole)
    part = images.Picture(path).crop((5, 7, 31, 20))
    assert np.array_equal(part, whole[7:20, 5:31])
    assert images.read_header(path) == ((56, 40), Image.open(path).mode)


def test_an_interlaced_png_is_decoded_whole(decoder, tmp_path):
    pypng = pytest.importorskip("png")
    pixels = picture(np.random.default_rng(0), (40, 56))
    with open(tmp_path / "image.png", "wb") as file:
        pypng.Writer(56, 40, greyscale=False, interlace=True).write(file, pixels.reshape(40, -1).tolist())
    assert np.array_equal(images.Picture(tmp_path / "image.png").crop((3, 4, 50, 11)), pixels[4:11, 3:50])


def test_damage_within_the_rows_of_a_crop_is_an_error(decoder, tmp_path):
    path = save_png(tmp_path / "image.png", picture(np.random.default_rng(0), (100, 100)))
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 200] = bytes(200)
    path.write_bytes(whole)
    with pytest.raises(DataError, match="image.png: not a readable image"):
        images.Picture(path).crop((0, 0, 100, 80))


# Names


def test_packed_names_are_used_like_a_list():
    listed = ["aachen/a_1.png", "b.png", "ü/ß.png", "", "b.png", "odd\udcff.png"]
    names = Names(listed)
    assert list(names) == listed and len(names) == 6 and names == listed and listed == names
    assert names[1] == "b.png" and names[-1] == listed[-1] and names[1:4] == listed[1:4]
    assert names.index("ü/ß.png") == 2 and names.count("b.png") == 2 and "c.png" not in names
    assert (
        names != listed[:-1] and names == Names(iter(listed)) and pickle.loads(pickle.dumps(names)) == listed
    )
    assert len(Names([])) == 0
    for wrong in (6, -7):
        with pytest.raises(IndexError):
            names[wrong]


def test_a_data_set_with_packed_names_reaches_spawned_workers(tmp_path):
    write_gta5(tmp_path, count=6, size=(24, 40))
    data = build_dataset("gta5", tmp_path, input_size=(24, 40), crop_size=(16, 24))
    stream = TrainingStream(data, 6, (5, 0))
    copied = pickle.loads(pickle.dumps(stream))
    for k in range(6):
        assert torch.equal(copied[k]["image"], stream[k]["image"]) and copied[k]["name"] == stream[k]["name"]


def test_the_names_of_a_large_set_take_hardly_more_than_their_letters(tmp_path):
    names = Names(f"{number:05}.png" for number in range(24_966))
    assert len(pickle.dumps(names)) < 24_966 * (9 + 8) + 1000


# Checks beside the training


@pytest.fixture
def large(monkeypatch):
    """Sets of three images count as large."""
    monkeypatch.setattr(base, "CHECKED_FIRST", 2)


def test_a_fault_in_a_large_set_is_raised_in_the_loop(large, tmp_path):
    write_gta5(tmp_path, count=40)
    data = build_dataset("gta5", tmp_path, input_size=(48, 80), crop_size=(32, 64))
    broken = tmp_path / "images" / "00033.png"
    broken.write_bytes(broken.read_bytes()[:-20])
    with ChecksBeside() as checks:
        assert data.check(labels_required=True, beside=checks) is True
        with pytest.raises(DataError, match="00033.png: the file is cut short"):
            for _ in range(1000):
                checks.poll()
                time.sleep(0.01)
    with pytest.raises(DataError, match="00033.png: the file is cut short"):
        data.check(labels_required=True)


def test_a_missing_label_of_a_large_set_is_found_before_it_starts(large, tmp_path):
    write_gta5(tmp_path, count=5)
    (tmp_path / "labels" / "00004.png").unlink()
    data = build_dataset("gta5", tmp_path)
    with pytest.raises(DataError, match="labels/00004.png: no such label file"):
        data.check(labels_required=True, beside=ChecksBeside())


def test_whether_a_large_target_has_labels_is_known_before_it_starts(large, tmp_path):
    write_cityscapes(tmp_path, splits=["train"], count=3)
    labels = [tmp_path / "gtFine" / "train" / n.replace("leftImg8bit", "gtFine_labelIds")
              for n in cityscapes_names(3)]  # fmt: skip
    data = build_dataset("cityscapes", tmp_path)
    for label in labels[:-1]:
        label.unlink()
    assert data.check(labels_required=False, beside=ChecksBeside()) is True
    labels[-1].unlink()
    assert data.check(labels_required=False, beside=ChecksBeside()) is False


def test_finishing_waits_for_every_check_and_raises():
    seen = []

    def check(index):
        time.sleep(0.001)
        seen.append(index)
        if index == 99:
            raise DataError("the last")

    with ChecksBeside() as checks:
        checks.add(seen.append, 50)
        checks.finish()
        assert sorted(seen) == list(range(50))
    with ChecksBeside() as checks:
        checks.add(check, 100)
        with pytest.raises(DataError, match="the last"):
            checks.finish()


def test_leaving_stops_the_checks_whatever_happened():
    before, done = threading.active_count(), []

    def check(index):
        time.sleep(0.01)
        done.append(index)

    with pytest.raises(KeyboardInterrupt), ChecksBeside() as checks:
        checks.add(check, 10**6)
        checks.poll()
        raise KeyboardInterrupt
    assert threading.active_count() == before and len(done) < 1000


@pytest.mark.parametrize("workers", ["0", "1"])
def test_training_on_a_large_set_stops_at_a_fault_before_it_saves(large, workers, world, run_main):
    broken = world / "data/GTA5/images/00002.png"
    broken.write_bytes(broken.read_bytes() + b"more")  # decodes, but its end is not a PNG's
    flags = ("--num-steps", "400", "--save-pred-every", "1", "--num-workers", workers)
    one_line_error(run_main("train_ms", *TRAINING, *flags), "data/GTA5/images/00002.png", "cut short")
    assert not list(world.glob("snapshots/*.pth"))


def test_training_on_a_sound_large_set_ends_as_ever(large, world, run_main):
    result = run_main("train_ms", *TRAINING)
    assert result.returncode == 0 and (world / "snapshots" / "GTA5_4.pth").is_file()


def test_a_large_set_is_ready_at_once(tmp_path):
    """Not timed: its files would have to be opened, and they are no images."""
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        for number in range(base.CHECKED_FIRST + 1):
            (tmp_path / part / f"{number:05}.png").touch()
    checks = ChecksBeside()
    data = build_dataset("gta5", tmp_path)
    assert data.check(labels_required=True, beside=checks) is True
    with checks, pytest.raises(DataError, match="not a readable image"):
        checks.finish()
