"""Training samples, their order, and the input of predictions, seen through `build_dataset`."""

import numpy as np
import pytest
import torch
from PIL import Image

from dataset import DataError, PredictionDataset, build_dataset
from dataset.robotcar import ROBOTCAR_COLORS
from dataset.sampling import TrainingStream, batches
from tests.conftest import (
    IDS_WITHOUT_CLASS,
    LABEL_IDS,
    TRAIN_IDS,
    cityscapes_names,
    label_blocks,
    picture,
    save_png,
    write_cityscapes,
    write_gta5,
)
from utils.preprocess import to_network_input

MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)
PADDING_RGB = (123, 117, 104)  # the mean in whole grey levels


def one_image(root, pixels, labels):
    """A GTA5 folder with one image and its palette label."""
    save_png(root / "images" / "00001.png", pixels)
    save_png(root / "labels" / "00001.png", labels, palette=[3 * i % 256 for i in range(768)])
    return root


def unchanged(name, root, size, **options):
    """A data set that shows its images as they are."""
    options = dict(input_size=size, crop_size=size, labelled_stream=False) | options
    return build_dataset(name, root, **options)


def samples(dataset, count, seed=(7, 0)):
    """The first samples of a stream as arrays: [(image, label), ...]."""
    stream = TrainingStream(dataset, count, seed)
    return [
        (sample["image"].numpy(), sample["label"].numpy()) for sample in map(stream.__getitem__, range(count))
    ]


# Labels


@pytest.mark.parametrize("name", ["gta5", "cityscapes"])
def test_every_label_id_reads_as_its_train_id(name, tmp_path):
    ids = np.array([*range(35), 255], np.uint8).reshape(4, 9)
    if name == "gta5":
        one_image(tmp_path, picture(np.random.default_rng(0), ids.shape), ids)
    else:
        write_cityscapes(tmp_path, splits=["train"], count=1, size=ids.shape)
        for file in tmp_path.rglob("*labelIds.png"):
            save_png(file, ids)
    label = unchanged(name, tmp_path, ids.shape)[0]["label"]
    expected = [TRAIN_IDS.get(i, 255) for i in [*range(35), 255]]
    assert label.dtype == torch.uint8 and label.flatten().tolist() == expected
    assert sorted(set(expected)) == [*range(19), 255] and len(IDS_WITHOUT_CLASS) == 16


def test_palette_labels_are_read_by_index_whatever_their_colours(tmp_path):
    rng = np.random.default_rng(0)
    ids = label_blocks(rng, (40, 56))
    save_png(tmp_path / "images" / "00001.png", picture(rng, ids.shape))
    for palette in (rng.integers(0, 256, 768).tolist(), [0] * 768):
        save_png(tmp_path / "labels" / "00001.png", ids, palette=palette)
        label = unchanged("gta5", tmp_path, ids.shape)[0]["label"].numpy()
        assert np.array_equal(np.array(LABEL_IDS)[label], ids)


def test_pseudo_labels_are_train_ids_already(tmp_path):
    write_cityscapes(tmp_path, splits=["train"], count=1, size=(20, 1))
    ids = np.array([*range(19), 255], np.uint8)[:, None]
    for name in cityscapes_names(1):
        save_png(tmp_path / "pseudo_FULL" / "train" / name, ids)
    assert np.array_equal(unchanged("cityscapes_pseudo", tmp_path, (20, 1))[0]["label"], ids)


@pytest.mark.parametrize(
    ("threshold", "folder"), [(1.0, "pseudo_FULL"), (0.9, "pseudo_0.9"), (0.5, "pseudo_0.5")]
)
def test_pseudo_labels_lie_in_the_folder_of_their_threshold(threshold, folder, tmp_path):
    write_cityscapes(tmp_path, splits=["train"], count=1, size=(8, 8))
    data = unchanged("cityscapes_pseudo", tmp_path, (8, 8), threshold=threshold)
    expected = tmp_path / folder / "train" / "aachen" / "aachen_000000_000019_leftImg8bit.png"
    assert data.label_path(data.names[0]) == expected


def test_another_ignore_label_marks_what_has_no_class(tmp_path):
    ids = np.array([[7, 0], [33, 255]], np.uint8)
    one_image(tmp_path, picture(np.random.default_rng(0), ids.shape), ids)
    assert unchanged("gta5", tmp_path, ids.shape, ignore_label=250)[0]["label"].tolist() == [
        [0, 250],
        [18, 250],
    ]


def test_target_without_labels_gives_samples_without_labels(tmp_path):
    write_cityscapes(tmp_path, splits=["train"])
    for file in tmp_path.rglob("*labelIds.png"):
        file.unlink()
    data = unchanged("cityscapes", tmp_path, (48, 96))
    assert data.check(labels_required=False) is False
    assert (data[0]["label"] == 255).all() and data[0]["label"].shape == (48, 96)


# Names


def test_a_scan_is_sorted_and_a_list_keeps_its_order(tmp_path):
    names = cityscapes_names(3)
    write_cityscapes(tmp_path, splits=["train"], count=3, size=(8, 8))
    (tmp_path / "leftImg8bit" / "train" / "aachen" / "notes.txt").write_text("no image")
    assert unchanged("cityscapes", tmp_path, (8, 8)).names.tolist() == sorted(names) == names
    chosen = [names[4], names[0], names[2]]
    (tmp_path / "list.txt").write_text("\r\n".join(["", *chosen, "", ""]))
    data = unchanged("cityscapes", tmp_path, (8, 8), list_file=tmp_path / "list.txt")
    assert data.names.tolist() == chosen


def test_a_list_with_a_byte_order_mark_names_the_same_images(tmp_path):
    write_gta5(tmp_path, count=2, size=(8, 8))
    (tmp_path / "list.txt").write_text("00002.png\n00001.png\n", encoding="utf-8-sig")
    data = unchanged("gta5", tmp_path, (8, 8), list_file=tmp_path / "list.txt")
    assert data.names.tolist() == ["00002.png", "00001.png"]


# The view of the labelled stream


def gradients(size):
    """An image whose red tells the column and whose green tells the row."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.stack([columns, rows, np.full(size, 9)], 2).astype(np.uint8)


def slope(values):
    """Mean grey levels a pixel along a line."""
    return (float(values[-1]) - float(values[0])) / (len(values) - 1)


def scales_and_mirrors(dataset, count):
    """Scale of the columns, scale of the rows and whether mirrored, of `count` samples."""
    pairs = [
        (slope(image[60, 20:-20, 0]), slope(image[20:-20, 60, 1])) for image, _ in samples(dataset, count)
    ]
    columns, rows = np.array(pairs).T
    return 1 / np.abs(columns), 1 / rows, columns < 0


@pytest.fixture
def graded(tmp_path):
    """One 240x200 image of gradients with blocks as labels."""
    size = (200, 240)
    return one_image(tmp_path, gradients(size), label_blocks(np.random.default_rng(0), size))


def test_labelled_stream_scales_both_sides_alike_from_0_8_to_1_2(graded):
    data = build_dataset("gta5", graded, input_size=(200, 240), crop_size=(150, 180))
    columns, rows, _ = scales_and_mirrors(data, 300)
    assert columns == pytest.approx(rows, abs=0.02)
    assert 0.79 < columns.min() < 0.82 and 1.18 < columns.max() < 1.21
    assert columns.mean() == pytest.approx(1, abs=0.03)
    assert columns.std() == pytest.approx(0.4 / 12**0.5, abs=0.01)  # of a uniform distribution


def test_labelled_stream_is_mirrored_half_of_the_time(graded):
    _, _, mirrored = scales_and_mirrors(
        build_dataset("gta5", graded, input_size=(200, 240), crop_size=(150, 180)), 300
    )
    assert 120 < mirrored.sum() < 180


@pytest.mark.parametrize("random_mirror", [False, True])
def test_target_stream_keeps_its_scale_and_is_mirrored_only_on_demand(graded, random_mirror):
    data = build_dataset(
        *("gta5", graded),
        labelled_stream=False,
        input_size=(200, 240),
        crop_size=(150, 180),
        random_mirror=random_mirror,
    )
    columns, rows, mirrored = scales_and_mirrors(data, 200)
    assert (columns == 1).all() and (rows == 1).all()
    assert 70 < mirrored.sum() < 130 if random_mirror else not mirrored.any()


def test_random_scale_scales_the_target_stream_too(graded):
    data = build_dataset(
        *("gta5", graded),
        labelled_stream=False,
        input_size=(200, 240),
        crop_size=(150, 180),
        random_scale=True,
    )
    columns, _, mirrored = scales_and_mirrors(data, 100)
    assert columns.min() < 0.85 and columns.max() > 1.15 and not mirrored.any()


def test_crops_are_of_the_crop_size_and_lie_everywhere(tmp_path):
    size = (20, 30)
    one_image(tmp_path, gradients(size), label_blocks(np.random.default_rng(0), size))
    data = unchanged("gta5", tmp_path, size, crop_size=(16, 24))
    drawn = samples(data, 400)
    assert {(image.shape, label.shape) for image, label in drawn} == {((16, 24, 3), (16, 24))}
    corners = {(image[0, 0, 1], image[0, 0, 0]) for image, _ in drawn}
    assert corners == {(top, left) for top in range(5) for left in range(7)}


@pytest.mark.parametrize("labelled", [True, False])
def test_image_and_label_stay_aligned(labelled, tmp_path):
    rng = np.random.default_rng(0)
    ids = label_blocks(rng, (100, 160), block=20)
    colors = rng.integers(0, 256, (256, 3)).astype(np.uint8)
    one_image(tmp_path, colors[ids], ids)
    data = build_dataset(
        *("gta5", tmp_path),
        labelled_stream=labelled,
        random_mirror=True,
        input_size=(120, 210),  # another aspect ratio: both sides are resized, each by its own factor
        crop_size=(64, 96),
    )
    far_from_edges = 0
    for image, label in samples(data, 40):
        around = np.lib.stride_tricks.sliding_window_view(label, (7, 7))
        inner = (around == around[:, :, :1, :1]).all((2, 3))
        shown, meant = image[3:-3, 3:-3][inner], colors[np.array(LABEL_IDS)[label[3:-3, 3:-3][inner]]]
        assert np.abs(shown.astype(int) - meant).max() <= 3
        far_from_edges += inner.mean() / 40
    assert far_from_edges > 0.3


def striped_image(values):
    """An image whose label holds all of `values` in its last columns and the first of them elsewhere."""
    ids = np.full((40, 360), values[0], np.uint8)
    ids[:, 290:] = np.resize(np.repeat(values, 2), 70)
    return np.zeros((40, 360, 3), np.uint8), ids


def rich_share(data, values, count=400):
    """Share of the samples that hold that many label values."""
    return np.mean([len(np.unique(label)) == values for _, label in samples(data, count)])


@pytest.mark.parametrize("values", [LABEL_IDS[:11], (*LABEL_IDS[:10], 0)])
def test_crops_are_drawn_again_up_to_10_times_for_more_than_10_label_values(values, tmp_path):
    root = one_image(tmp_path, *striped_image(values))
    options = dict(input_size=(40, 360), crop_size=(32, 60))
    once = rich_share(build_dataset("gta5", root, labelled_stream=False, random_scale=True, **options), 11)
    searched = rich_share(build_dataset("gta5", root, **options), 11)
    assert 0.1 < once < 0.25
    assert searched == pytest.approx(1 - (1 - once) ** 11, abs=0.06)
    assert searched < 0.99  # after the last draw any crop is taken


def test_10_label_values_are_not_enough_to_stop_the_search(tmp_path):
    root = one_image(tmp_path, *striped_image(LABEL_IDS[:10]))
    options = dict(input_size=(40, 360), crop_size=(32, 60))
    once = rich_share(build_dataset("gta5", root, labelled_stream=False, random_scale=True, **options), 10)
    searched = rich_share(build_dataset("gta5", root, **options), 10)
    assert searched == pytest.approx(once, abs=0.07)


def one_city(root, pixels, ids):
    """A Cityscapes folder with one image and its label."""
    name = cityscapes_names(1)[0]
    save_png(root / "leftImg8bit/train" / name, pixels)
    save_png(root / "gtFine/train" / name.replace("leftImg8bit", "gtFine_labelIds"), ids.astype(np.uint8))


def test_cityscapes_as_a_source_is_scaled_but_for_robotcar(tmp_path):
    size = (200, 240)
    one_city(tmp_path, gradients(size), np.full(size, 7))
    options = dict(labelled_stream=True, input_size=size, crop_size=(150, 180))
    columns, _, _ = scales_and_mirrors(build_dataset("cityscapes", tmp_path, **options), 40)
    assert columns.min() < 0.9 and columns.max() > 1.1
    data = build_dataset("cityscapes", tmp_path, colors=ROBOTCAR_COLORS, **options)
    columns, rows, mirrored = scales_and_mirrors(data, 60)
    assert (columns == 1).all() and (rows == 1).all() and 15 < mirrored.sum() < 45


def test_cityscapes_as_the_source_of_robotcar_is_not_searched_for_crops(tmp_path):
    one_city(tmp_path, *striped_image((7, 8, 11, 19, 20)))
    options = dict(colors=ROBOTCAR_COLORS, input_size=(40, 360), crop_size=(32, 60))
    source, once = (
        rich_share(build_dataset("cityscapes", tmp_path, labelled_stream=labelled, **options), 5)
        for labelled in (True, False)
    )
    assert 0.1 < once < 0.35 and source == pytest.approx(once, abs=0.08)


def test_crops_of_robotcar_pseudo_labels_hold_more_than_4_values(tmp_path):
    shares = {}
    for values in (4, 5):
        pixels, label = striped_image(range(values))
        save_png(tmp_path / "train/a/1.png", pixels)
        save_png(tmp_path / "pseudo_train_0.9/a/1.png", label)
        options = dict(input_size=(40, 360), crop_size=(32, 60), source="cityscapes")
        once = build_dataset("robotcar_pseudo", tmp_path, labelled_stream=False, random_scale=True, **options)
        searched = build_dataset("robotcar_pseudo", tmp_path, **options)
        shares[values] = rich_share(once, values), rich_share(searched, values)
    assert shares[4][1] == pytest.approx(shares[4][0], abs=0.08)  # 4 values never end the search
    assert shares[5][1] == pytest.approx(1 - (1 - shares[5][0]) ** 11, abs=0.08) and shares[5][0] < 0.35


def test_an_image_smaller_than_the_crop_is_padded_with_mean_and_255(tmp_path):
    rng = np.random.default_rng(0)
    ids, pixels = label_blocks(rng, (30, 40)), picture(rng, (30, 40))
    one_image(tmp_path, pixels, ids)
    image, label = samples(unchanged("gta5", tmp_path, (30, 40), crop_size=(48, 64)), 1)[0]
    assert image.shape == (48, 64, 3) and np.array_equal(image[:30, :40], pixels)
    assert np.array_equal(np.array(LABEL_IDS)[label[:30, :40]], ids)
    outside = np.ones((48, 64), bool)
    outside[:30, :40] = False
    assert (label[outside] == 255).all() and (image[outside] == PADDING_RGB).all()
    padding = to_network_input(torch.from_numpy(image)[None])[0, :, -1, -1]
    assert padding.abs().max() <= 0.5  # nothing, to the network


def test_padding_is_mirrored_with_its_image(tmp_path):
    ids = label_blocks(np.random.default_rng(0), (30, 40))
    one_image(tmp_path, np.zeros((30, 40, 3), np.uint8), ids)
    data = build_dataset("gta5", tmp_path, input_size=(30, 40), crop_size=(48, 64))
    sides = set()
    for image, label in samples(data, 20):
        assert np.array_equal(label == 255, (image == PADDING_RGB).all(2))
        sides.add((label[0, 0] == 255, label[0, -1] == 255))
    assert sides == {(True, False), (False, True)}


# Resizing


def test_a_crop_is_the_one_that_resizing_the_whole_image_first_would_give(tmp_path):
    rng = np.random.default_rng(0)
    ids, pixels = label_blocks(rng, (75, 131), block=3), picture(rng, (75, 131))
    one_image(tmp_path, pixels, ids)
    whole = np.asarray(Image.fromarray(pixels).resize((72, 40), Image.Resampling.BICUBIC)).astype(int)
    whole_ids = np.asarray(Image.fromarray(ids).resize((72, 40), Image.Resampling.NEAREST))
    places = [(top, left) for top in range(9) for left in range(9)]
    found = set()
    for image, label in samples(unchanged("gta5", tmp_path, (40, 72), crop_size=(32, 64)), 30):
        far = [np.abs(whole[y : y + 32, x : x + 64] - image).max() for y, x in places]
        assert min(far) <= 1 and sorted(far)[1] > 20
        y, x = places[int(np.argmin(far))]
        assert np.array_equal(np.array(LABEL_IDS)[label], whole_ids[y : y + 32, x : x + 64])
        found.add((y, x))
    assert len(found) > 15


@pytest.mark.parametrize("crop", [(40, 72), (32, 64), (5, 9), (40, 1)])
def test_an_image_of_twice_the_size_is_halved_to_the_pixels_of_pillow(crop, tmp_path):
    rng = np.random.default_rng(0)
    pixels = np.where(rng.random((80, 144, 3)) < 0.5, 0, 255).astype(np.uint8)  # sums that are often halves
    pixels[:, 50:] = picture(rng, (80, 94))
    one_image(tmp_path, pixels, np.full((80, 144), 7, np.uint8))
    rows = Image.fromarray(pixels).resize((72, 80), Image.Resampling.BICUBIC)
    whole = np.asarray(rows.resize((72, 40), Image.Resampling.BICUBIC))
    windows = np.lib.stride_tricks.sliding_window_view(whole, (*crop, 3))[:, :, 0]
    for image, _ in samples(unchanged("gta5", tmp_path, (40, 72), crop_size=crop), 20):
        assert (windows == image).all((2, 3, 4)).any()


@pytest.mark.parametrize("sizes", [[(40, 72), (50, 90)], [(75, 131), (150, 262)], [(1, 1)]])
def test_a_prediction_sees_the_pixels_that_pillow_resizes_to(sizes, tmp_path):
    pixels = picture(np.random.default_rng(0), (75, 131))
    one_image(tmp_path, pixels, np.full((75, 131), 7, np.uint8))
    item = PredictionDataset(build_dataset("gta5", tmp_path), sizes, labels=True)[0]
    assert item["size"] == (75, 131) and (item["label"] == 0).all() and item["label"].shape == (75, 131)
    for (height, width), shown in zip(sizes, item["images"], strict=True):
        expected = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
        assert shown.dtype == torch.uint8 and shown.shape == (height, width, 3)
        difference = np.abs(shown.numpy().astype(int) - expected)
        assert difference.max() <= 1 and difference.mean() < 0.01


def test_the_network_sees_bgr_minus_mean_exactly(tmp_path, float64):
    pixels = picture(np.random.default_rng(0), (24, 32))
    one_image(tmp_path, pixels, np.full((24, 32), 7, np.uint8))
    shown = to_network_input(unchanged("gta5", tmp_path, (24, 32))[0]["image"][None])
    assert shown.dtype == torch.float64 and shown.shape == (1, 3, 24, 32)
    for channel, (rgb, mean) in enumerate(zip((2, 1, 0), MEAN_BGR, strict=True)):
        assert np.array_equal(shown[0, channel].numpy(), pixels[:, :, rgb].astype(np.float64) - mean)


# AutoAugment


def test_autoaugment_changes_images_only_and_is_reproducible(tmp_path):
    write_cityscapes(tmp_path, splits=["train"])
    options = dict(input_size=(48, 96), crop_size=(32, 64))
    as_is = samples(build_dataset("cityscapes", tmp_path, **options), 20)
    augmented = build_dataset("cityscapes", tmp_path, autoaugment=True, **options)
    torch.manual_seed(1)
    first = samples(augmented, 20)
    torch.manual_seed(2)
    again = samples(augmented, 20)
    changed = [not np.array_equal(a, b) for (a, _), (b, _) in zip(as_is, first, strict=True)]
    assert sum(changed) > 10
    for (_, label), (image, same_label), (same_image, _) in zip(as_is, first, again, strict=True):
        assert np.array_equal(label, same_label) and np.array_equal(image, same_image)


def test_autoaugment_leaves_torch_random_numbers_alone(tmp_path):
    write_gta5(tmp_path)
    data = build_dataset("gta5", tmp_path, input_size=(48, 80), crop_size=(32, 64), autoaugment=True)
    before = torch.get_rng_state()
    samples(data, 5)
    assert torch.equal(before, torch.get_rng_state())


# The order of a stream


@pytest.fixture
def twelve(tmp_path):
    """A data set of twelve images."""
    write_gta5(tmp_path, count=12, size=(24, 40))
    return build_dataset("gta5", tmp_path, input_size=(24, 40), crop_size=(16, 24), autoaugment=True)


def test_a_sample_depends_on_the_seed_and_its_position_alone(twelve):
    def drawn(workers, length, seed=(5, 0)):
        stream = TrainingStream(twelve, length, seed)
        return list(batches(stream, batch_size=4, workers=workers, pin_memory=False))

    torch.manual_seed(1)
    here = drawn(workers=0, length=32)
    torch.manual_seed(2)
    elsewhere = drawn(workers=2, length=40)
    assert len(here) == 8 and len(elsewhere) == 10
    for one, other in zip(here, elsewhere, strict=False):
        assert one["name"] == other["name"]
        assert torch.equal(one["image"], other["image"]) and torch.equal(one["label"], other["label"])
    for seed in ((6, 0), (5, 1)):
        assert [b["name"] for b in drawn(workers=0, length=32, seed=seed)] != [b["name"] for b in here]


def test_every_epoch_is_another_permutation_and_another_draw(twelve):
    stream = TrainingStream(twelve, 36, (5, 0))
    drawn = [stream[k] for k in range(36)]
    epochs = [[s["name"] for s in drawn[start : start + 12]] for start in (0, 12, 24)]
    assert all(sorted(epoch) == twelve.names.tolist() for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs} | {tuple(twelve.names)}) == 4
    of_one = [s["image"] for s in drawn if s["name"] == "00001.png"]
    assert not torch.equal(of_one[0], of_one[1]) and not torch.equal(of_one[1], of_one[2])


def test_a_sample_can_be_asked_for_without_those_before_it(twelve):
    stream = TrainingStream(twelve, 36, (5, 0))
    last = stream[35]
    assert torch.equal(last["image"], [stream[k] for k in range(36)][35]["image"])


def test_train_ids_beside_a_missing_label_are_named(tmp_path):
    write_cityscapes(tmp_path, splits=["train"])
    for file in tmp_path.rglob("*labelIds.png"):
        file.rename(file.with_name(file.name.replace("labelIds", "labelTrainIds")))
    with pytest.raises(DataError, match="labelIds.png: no such label file; .*labelTrainIds.png is there"):
        unchanged("cityscapes", tmp_path, (48, 96)).check(labels_required=True)
