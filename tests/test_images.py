"""Decoding gives the pixels that Pillow gives, and the check of a set finds every fault in its headers."""

import io
import os
import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dataset import DataError, build_dataset, images, png
from dataset.sampling import TrainingStream, batches
from tests.conftest import (
    LABEL_IDS,
    TRAIN_IDS,
    label_blocks,
    one_line_error,
    picture,
    save_by_pypng,
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


# The samples


def reference(pixels, ids, input_size, crop_size, rng, scale, search):
    """The baseline: everything resized, then cropped, padded and mirrored."""
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
def test_samples_are_those_of_the_baseline_up_to_one_grey_level(
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
    for seed in range(6):
        options = dict(rng=np.random.default_rng(seed), scale=labelled, search=labelled)
        image, label = reference(pixels, ids, input_size, crop_size, **options)
        sample = data.sample(0, np.random.default_rng(seed))
        assert sample["image"].dtype == sample["label"].dtype == torch.uint8
        # Pillow rounds between the passes over rows and columns, and takes the cheaper pass first.
        far = np.abs(sample["image"].numpy() - image)
        assert far.max() <= 2 and np.mean(far > 1) < 1e-3
        assert np.array_equal(sample["label"], label)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [(mode, "png") for mode in ("RGB", "L", "P", "RGBA", "LA", "1")]
    + [(mode, suffix) for suffix in ("webp", "bmp", "tif") for mode in ("RGB", "L")]
    + [("CMYK", "tif"), ("RGBA", "tif")],  # four bands
)
def test_any_kind_of_file_gives_the_pixels_that_pillow_gives(decoder, mode, suffix, tmp_path):
    path = tmp_path / f"image.{suffix}"
    image = Image.fromarray(picture(np.random.default_rng(0), (40, 56))).convert(mode)
    image.save(path, **({"lossless": True} if suffix == "webp" else {}))
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


# Files read as what they are


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def deep_files(folder):
    """Colour pictures of a 12-bit camera, 40x24, in files of 16 bits per channel."""
    pixels = picture(np.random.default_rng(0), (24, 40)).astype(np.uint16) * 16
    alpha = np.full((24, 40, 1), 65535, np.uint16)
    save_by_pypng(folder / "rgb.png", pixels)
    save_by_pypng(folder / "interlaced.png", pixels, interlace=True)
    save_by_pypng(folder / "rgba.png", np.concatenate([pixels, alpha], 2))
    save_by_pypng(folder / "grey and alpha.png", np.concatenate([pixels[..., :1], alpha], 2))
    (folder / "rgb.ppm").write_bytes(b"P6 40 24 65535\n" + pixels.astype(">u2").tobytes())
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(folder / "compressed.tif"), pixels)
    cv2.imwrite(str(folder / "rgb.tif"), pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    cv2.imwrite(str(folder / "rgb.jp2"), np.tile(pixels, (4, 4, 1)))
    content = (folder / "rgb.jp2").read_bytes()
    (folder / "rgb.j2k").write_bytes(content[content.index(b"\xff\x4f\xff\x51") :])  # without its boxes
    return sorted(folder.iterdir())


def test_colour_pictures_of_16_bits_are_refused_and_not_read_nearly_black(tmp_path):
    files = deep_files(tmp_path)
    assert len(files) == 9
    for path in files:
        for use in (images.check_image, images.decode_image):
            with pytest.raises(DataError, match=f"{path.name}: .*more than 8 bits.*8-bit RGB"):
                use(path)


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_2000_pictures_of_8_bits_are_read(mode, bare, tmp_path):
    drawn = Image.fromarray(picture(np.random.default_rng(0), (24, 40))).convert(mode)
    drawn.save(tmp_path / "street.jp2", "JPEG2000", no_jp2=bare)
    assert images.check_image(tmp_path / "street.jp2") == (40, 24)
    assert np.array_equal(images.decode_image(tmp_path / "street.jp2"), drawn.convert("RGB"))


def test_colour_labels_of_16_bits_are_refused(tmp_path):
    save_by_pypng(tmp_path / "label.png", np.full((4, 6, 3), 128, np.uint16))
    reader = images.ColorReader(((0, 0, 0),))
    for use in (reader.read, lambda path: images.check_label(path, reader, (6, 4))):
        with pytest.raises(DataError, match="label.png: .*more than 8 bits"):
            use(tmp_path / "label.png")


def test_ids_in_the_first_channel_of_a_16_bit_tiff_are_refused(tmp_path):
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "label.tif"), np.full((4, 6, 3), 7, np.uint16))
    with pytest.raises(DataError, match="label.tif: .*save it as PNG"):
        images.FirstChannelReader().read(tmp_path / "label.tif")


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def note_behind_the_pixels(path, orientation):
    """Move the EXIF of a PNG to where exiftool writes it."""
    whole = path.read_bytes()
    path.write_bytes(whole[:-12] + png_chunk(b"eXIf", exif(orientation).tobytes()[6:]) + whole[-12:])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["png", "png, behind", "png, grey", "png with a tail", "tif", "jpg", "webp"])
def test_a_turned_picture_is_upright_as_pillow_turns_it(form, orientation, decoder, tmp_path):
    path = tmp_path / f"image.{form[:4].strip(', ')}"
    image = Image.fromarray(picture(np.random.default_rng(0), (40, 56)))
    image = image.convert("L") if "grey" in form else image
    image.save(path, **({} if "behind" in form else {"exif": exif(orientation)}))
    if "behind" in form:
        note_behind_the_pixels(path, orientation)
    if "tail" in form:
        path.write_bytes(path.read_bytes() + bytes(50))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert upright.shape[:2] == ((56, 40) if orientation > 4 else (40, 56))
    assert images.check_image(path) == upright.shape[1::-1]
    assert np.array_equal(images.decode_image(path), upright)
    assert np.array_equal(images.Picture(path).crop((3, 5, 33, 30)), upright[5:30, 3:33])


@pytest.mark.parametrize("form", ["png", "tif"])
@pytest.mark.parametrize("orientation", [2, 3, 5, 6, 7, 8])
def test_labels_are_turned_with_their_picture(form, orientation, decoder, tmp_path):
    path = tmp_path / f"label.{form}"
    image = Image.fromarray(label_blocks(np.random.default_rng(0), (40, 56)))
    image.save(path, exif=exif(orientation))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(path.read_bytes()))))
    assert upright.shape == ((56, 40) if orientation > 4 else (40, 56))
    color = images.ColorReader(tuple((i, i, i) for i in range(256)))
    for reader in (images.IdReader(), images.FirstChannelReader(), color):
        images.check_label(path, reader, upright.shape[::-1])
        assert np.array_equal(reader.read(path), upright)


@pytest.mark.parametrize("tail", [b"camera notes", bytes(100_000)], ids=len)
def test_bytes_behind_the_end_of_a_whole_png_do_no_harm(tail, decoder, tmp_path):
    pixels = picture(np.random.default_rng(0), (40, 56))
    path = save_png(tmp_path / "image.png", pixels)
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert images.check_image(path) == (56, 40)
    assert np.array_equal(images.decode_image(path), pixels)
    assert np.array_equal(images.Picture(path).crop((3, 5, 33, 20)), pixels[5:20, 3:33])
    save_png(path, pixels[..., 0])
    path.write_bytes(path.read_bytes() + tail)
    assert np.array_equal(images.IdReader().read(path), pixels[..., 0])
    for missing in (1, 4, 12, 100):
        path.write_bytes(whole[:-missing])
        with pytest.raises(DataError, match="image.png: the file is cut short"):
            images.check_image(path)


# Names and checks


def test_names_survive_workers_and_bytes_that_are_not_utf_8(tmp_path):
    write_gta5(tmp_path, count=2, size=(24, 40))
    odd = os.fsdecode(b"odd\xff.png")
    for part in ("images", "labels"):
        (tmp_path / part / "00002.png").rename(tmp_path / part / odd)
    data = build_dataset("gta5", tmp_path, input_size=(24, 40), crop_size=(16, 24))
    assert data.names.tolist() == ["00001.png", odd] and data.check(labels_required=True)
    stream = TrainingStream(data, 4, (5, 0))
    copied = pickle.loads(pickle.dumps(stream))  # as a spawned worker gets it
    loaded = batches(stream, batch_size=1, workers=1, pin_memory=False)
    for k, batch in enumerate(loaded):
        assert batch["name"] == [stream[k]["name"]] == [copied[k]["name"]]
        assert torch.equal(batch["image"][0], copied[k]["image"])
    assert type(stream[0]["name"]) is str and odd in stream.names_at(range(2))


def test_the_names_of_a_large_set_are_pickled_as_one_block(tmp_path):
    for number in range(1000):
        (tmp_path / f"{number:05}.png").touch()
    assert len(pickle.dumps(build_dataset(str(tmp_path)).names)) < 1000 * 4 * 9 + 1000


@pytest.mark.parametrize("count", [5, 1200])
def test_the_check_finds_a_fault_anywhere_in_a_set_of_any_size(count, tmp_path):
    write_gta5(tmp_path, count=1, size=(8, 8))
    for number in range(2, count + 1):
        for part in ("images", "labels"):
            os.link(tmp_path / part / "00001.png", tmp_path / part / f"{number:05}.png")
    data, last = build_dataset("gta5", tmp_path), f"{count - 1:05}.png"
    assert data.check(labels_required=True) is True
    content = (tmp_path / "labels" / last).read_bytes()
    (tmp_path / "labels" / last).unlink()
    with pytest.raises(DataError, match=f"labels/{last}: no such label file"):
        data.check(labels_required=True)
    assert data.check(labels_required=False) is True
    (tmp_path / "labels" / last).write_bytes(content[:-20])
    with pytest.raises(DataError, match=f"labels/{last}: the file is cut short"):
        data.check(labels_required=False)
    (tmp_path / "images" / last).unlink()
    with pytest.raises(DataError, match=f"images/{last}: no such file"):
        data.check(labels_required=False)


def test_the_check_tells_whether_any_image_of_a_target_has_a_label(tmp_path):
    write_cityscapes(tmp_path, splits=["train"])
    *others, last = sorted(tmp_path.rglob("*labelIds.png"))
    data = build_dataset("cityscapes", tmp_path)
    for label in others:
        label.unlink()
    assert data.check(labels_required=False) is True
    last.unlink()
    assert data.check(labels_required=False) is False


def test_a_named_pipe_does_not_block_the_check(tmp_path):
    write_gta5(tmp_path, count=2, size=(8, 8))
    (tmp_path / "images" / "00002.png").unlink()
    os.mkfifo(tmp_path / "images" / "00002.png")
    with pytest.raises(DataError, match="images/00002.png: not a readable image"):
        build_dataset("gta5", tmp_path).check(labels_required=False)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../images/00001.png", "leaves the data folder"),
        ("/etc/hostname", "leaves the data folder"),
        ("..\\images\\00001.png", "leaves the data folder"),
        ("C:image.png", "leaves the data folder"),
    ],
)
def test_a_listed_name_stays_in_the_data_folder(name, problem, tmp_path):
    write_gta5(tmp_path, count=1, size=(8, 8))
    (tmp_path / "list.txt").write_text(f"00001.png\n{name}\n")
    with pytest.raises(DataError, match=f"list.txt: .*{problem}"):
        build_dataset("gta5", tmp_path, list_file=tmp_path / "list.txt")


def test_a_link_that_leads_back_is_named_in_one_short_line(tmp_path, monkeypatch, run_main):
    monkeypatch.chdir(tmp_path)
    save_png(tmp_path / "photos/a.png", np.zeros((8, 8, 3), np.uint8))
    save_png(tmp_path / "more/b.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "photos/elsewhere").symlink_to("../more")
    flags = ("check_data", "photos", "--source", "gta5", "--num-workers", "0")
    assert "images  2 of photos" in run_main(*flags).stdout
    for target in ("..", ".", "loop"):
        (tmp_path / "photos/loop").symlink_to(target)
        why = "levels of symbolic links" if target == "loop" else "this link leads back"
        line = one_line_error(run_main(*flags), "photos/loop", why)
        assert len(line) < 150
        (tmp_path / "photos/loop").unlink()
