"""The trained network outside training: as a function, by torch.hub, on the command line, as ONNX."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dataset.cityscapes import CITYSCAPES_COLORS
from dataset.labels import palette
from dataset.robotcar import ROBOTCAR_COLORS
from dataset.transforms import resize_whole
from deploy import segmenter
from deploy.legends import legend_entries, overlay_with_legend, uncertainty_overlay
from deploy.onnx_file import check_onnx
from deploy.segmenter import load_segmenter
from model.deeplab_multi import DeeplabMulti
from tests.conftest import (
    ROOT,
    cityscapes_names,
    files_of,
    make_unsure,
    one_line_error,
    run_in,
    save_png,
    write_cityscapes,
)
from utils.errors import UserError
from utils.inference import SingleScaleModel
from utils.options import stage1_args, write_options
from utils.pictures import HEAT_TABLE, MIDDLE_GREY, bar_colors
from utils.preprocess import MEAN_BGR, to_network_input

SIZE = (40, 72)
INPUT_SIZE = "72,40"
EXPORT_SIZE = (56, 88)  # of no other test, so that nothing of this size is cached
VIDEO = importlib.util.find_spec("av") is not None
EXPORT = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
needs_video = pytest.mark.skipif(not VIDEO, reason="PyAV is not installed")
needs_export = pytest.mark.skipif(not EXPORT, reason="onnx, onnxruntime or onnxscript is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")


def save_snapshot(folder, *flags, classes=CITYSCAPES_COLORS, num_classes=None):
    """A snapshot that is unsure in places, with its opts.yaml."""
    args = stage1_args(
        ["--arch", "mini", "--use-se", "--input-size-target", INPUT_SIZE, "--crop-size", "32,32"]
    )
    args.norm_style, args.num_classes = "gn", num_classes or len(classes)
    for name, value in flags:
        setattr(args, name, value)
    torch.manual_seed(0)
    network = DeeplabMulti(args.num_classes, args.use_se, args.train_bn, args.norm_style, 0.1, "mini")
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / "GTA5_4.pth")
    make_unsure(folder / "GTA5_4.pth")
    write_options(folder, args, classes)
    return folder / "GTA5_4.pth"


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    return save_snapshot(tmp_path_factory.mktemp("snapshot"))


@pytest.fixture(scope="module")
def loaded(snapshot):
    return load_segmenter(snapshot, "cpu")


@pytest.fixture
def flags(snapshot):
    return ("--restore-from", snapshot, "--save", "seen", "--cpu", "--fast")


def photograph(size=(48, 96), seed=0):
    """(H, W, 3) uint8 with patches that a network takes for different things."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8))
    return np.asarray(patches.resize(size[::-1], Image.Resampling.BICUBIC))


def pixels(path):
    return np.asarray(Image.open(path))


# As a function


def test_segmenter_computes_what_the_evaluation_writes(snapshot, loaded, tmp_path, monkeypatch, run_main):
    monkeypatch.chdir(tmp_path)
    data = write_cityscapes(tmp_path / "data", splits=["val"], count=1)
    for seed, name in enumerate(cityscapes_names(1)):
        save_png(data / "leftImg8bit" / "val" / name, photograph(seed=seed))
    result = run_main(
        "evaluate_cityscapes",
        *("--restore-from", snapshot, "--data-dir", data, "--save", "result", "--num-workers", 0, "--cpu"),
    )
    assert result.returncode == 0, result.stderr
    for name in cityscapes_names(1):
        found = loaded(Image.open(data / "leftImg8bit" / "val" / name))
        written = tmp_path / "result" / name
        assert np.array_equal(found.label, pixels(written))
        score = pixels(written.with_name(f"{written.stem}_score.png"))
        assert np.abs(255 * found.score - score).max() <= 0.51
        assert np.bincount(found.label.ravel()).max() < 0.98 * found.label.size


def test_fast_is_one_pass(loaded):
    image = photograph()
    found = loaded(image, fast=True)
    resized = resize_whole(image.copy(), SIZE)
    with torch.no_grad():
        z1, z2 = loaded.network(to_network_input(resized[None]))
        p1, p2 = z1.softmax(1), z2.softmax(1)
        maps = [(0.5 * z1 + z2).softmax(1), (p2 * (p2.log() - p1.log())).sum(1, keepdim=True)]
    scores, kl = (F.interpolate(m, image.shape[:2], mode="bilinear", align_corners=True)[0] for m in maps)
    assert np.array_equal(found.label, scores.argmax(0)) and found.label.dtype == np.uint8
    assert np.abs(found.score - scores.amax(0).numpy()).max() < 1e-5
    assert np.abs(found.uncertainty - kl[0].numpy()).max() < 1e-5
    assert not np.allclose(found.score, loaded(image).score, atol=1e-3)
    for other in (Image.fromarray(image), image[:, ::-1][:, ::-1]):
        assert all(np.array_equal(a, b) for a, b in zip(found, loaded(other, fast=True), strict=True))


@pytest.mark.parametrize(
    "image",
    [
        photograph().astype(float),
        photograph()[..., 0],
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        Image.new("I;16", (4, 4)),
        "street.jpg",
    ],
)
def test_what_is_not_an_image_is_refused(loaded, image):
    with pytest.raises((TypeError, ValueError), match="image must be|image array|8 bits"):
        loaded(image)


@pytest.mark.parametrize("fast", [False, True])
def test_results_have_the_images_size(loaded, fast):
    for size in [(1, 1), (200, 20), (20, 300), (97, 131)]:
        result = loaded(photograph(size), fast=fast)
        assert all(values.shape == size for values in result)
        assert result.score.min() >= 0 and result.score.max() <= 1.00001


def test_images_far_from_the_trainings_aspect_ratio_keep_their_own(loaded, snapshot):
    assert loaded.size_for((512, 1024)) == loaded.size_for((480, 640)) == SIZE
    height, width = loaded.size_for((2000, 1000))
    assert height == pytest.approx(2 * width, rel=0.05)
    assert height * width == pytest.approx(SIZE[0] * SIZE[1], rel=0.05)
    fixed = load_segmenter(snapshot, "cpu", input_size=(24, 32))
    assert fixed.size_for((2000, 1000)) == (24, 32)


def test_huge_images_are_labelled_smaller_and_enlarged(loaded, monkeypatch):
    image = photograph((96, 192))
    exact = loaded(image)
    monkeypatch.setattr(segmenter, "MAX_PIXELS", 96 * 192 // 4)
    found = loaded(image)
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in zip(exact, found, strict=True))
    assert (found.label == exact.label).mean() > 0.9
    assert np.abs(found.score - exact.score).max() < 0.3
    assert np.abs(found.uncertainty - exact.uncertainty).max() < 0.3 * exact.uncertainty.max()


def test_training_data_is_not_needed(tmp_path):
    classes = {"meadow": (0, 200, 0), "lake": (0, 0, 200)}
    own = [("source", "gone/campus.yaml"), ("target", "gone/photos.yaml")]
    # Three outputs, two of them named.
    loaded = load_segmenter(save_snapshot(tmp_path, *own, classes=classes, num_classes=3), "cpu")
    assert loaded.colors == classes and loaded.input_size == SIZE
    image = photograph()
    result = loaded(image)
    assert set(np.unique(result.label)) <= {0, 1, 2}
    assert loaded.overlay(image, result, legend=True).width == 576


def test_published_snapshots_are_recognised(tmp_path):
    path = save_snapshot(tmp_path, num_classes=9)
    options = (tmp_path / "opts.yaml").read_text()
    (tmp_path / "opts.yaml").write_text(options[: options.index("\nclasses:")])
    loaded = load_segmenter(path, "cpu")
    assert loaded.colors == ROBOTCAR_COLORS
    assert loaded.scales == (1.0, 0.8) and loaded.input_size == (960, 1280)


def test_unusable_snapshots_are_refused_with_the_reason(tmp_path, snapshot):
    with pytest.raises(UserError, match="no such file"):
        load_segmenter(tmp_path / "GTA5_1.pth")
    alone = tmp_path / "GTA5_4.pth"
    alone.write_bytes(snapshot.read_bytes())
    with pytest.raises(UserError, match="opts.yaml"):
        load_segmenter(alone)


@pytest.mark.parametrize("fast", [True, False])
def test_scores_that_are_not_finite_are_an_error(snapshot, tmp_path, fast):
    (tmp_path / "opts.yaml").write_bytes((snapshot.parent / "opts.yaml").read_bytes())
    state = torch.load(snapshot, weights_only=True)
    state["layer6.head.1.weight"].fill_(3e38)
    torch.save(state, tmp_path / snapshot.name)
    with pytest.raises(UserError, match="scores or uncertainties are not finite"):
        load_segmenter(tmp_path / snapshot.name, "cpu")(photograph(), fast=fast)


# Overlays


def swatches(sheet, image_height):
    """Class colours in the legend; letters have a few pixels of every grey."""
    strip = np.asarray(sheet)[image_height:].reshape(-1, 3)
    colors, counts = np.unique(strip, axis=0, return_counts=True)
    return {tuple(c) for c in colors[counts > 120].tolist()} & set(CITYSCAPES_COLORS.values())


def test_overlay_is_half_image_half_classes(loaded):
    image = photograph()
    result = loaded(image, fast=True)
    overlay = np.asarray(loaded.overlay(image, result)).astype(float)
    assert np.abs(overlay - (image / 2 + palette(CITYSCAPES_COLORS)[result.label] / 2)).max() <= 0.5


@pytest.mark.parametrize(
    "size, shown", [((48, 96), 288), ((600, 800), 600), ((700, 60), 700), ((30, 900), 30)]
)
def test_legend_names_the_classes_that_occur(size, shown):
    label = np.zeros(size, np.uint8)
    label[: size[0] // 4] = 13
    image = Image.new("RGB", size[::-1])
    sheet = overlay_with_legend(image, label, CITYSCAPES_COLORS)
    assert sheet.width >= 512 and sheet.width % 2 == sheet.height % 2 == 0
    assert swatches(sheet, shown) == {CITYSCAPES_COLORS["road"], CITYSCAPES_COLORS["car"]}
    sheet = overlay_with_legend(image, label, CITYSCAPES_COLORS, every_class=True)
    assert swatches(sheet, shown) == set(CITYSCAPES_COLORS.values())
    label[:] = 200  # no frame of a video may have another size
    assert overlay_with_legend(image, label, CITYSCAPES_COLORS, every_class=True).size == sheet.size


def test_large_images_are_reduced():
    sheet = overlay_with_legend(Image.new("RGB", (9000, 2)), np.zeros((2, 9000), np.uint8), CITYSCAPES_COLORS)
    assert sheet.width == 4096


def test_legend_shares_are_fractions_of_the_pixels():
    label = np.zeros((20, 100), np.uint8)
    label[0, :50], label[1], label[2, 0] = 13, 2, 20
    names, colors, shares = zip(*legend_entries(label, CITYSCAPES_COLORS), strict=True)
    assert names == ("road", "building", "car", "class 20")
    assert colors[:3] == tuple(CITYSCAPES_COLORS[name] for name in names[:3])
    assert shares == (0.9245, 0.05, 0.025, 0.0005)


@pytest.mark.filterwarnings("ignore:Glyph")
def test_every_name_stays_within_the_legend_and_has_its_swatch():
    names = ["a very long name of a class " * 5, "Straße", "道路", "_hidden", "$x^2$", "half $"]
    colors = {name: (200, 0, 20 * index) for index, name in enumerate(names)}
    label = np.arange(6, dtype=np.uint8).repeat(50).reshape(3, 100)
    strip = np.asarray(overlay_with_legend(Image.new("RGB", (100, 3)), label, colors))[18:]
    assert (strip[:, [0, 1, -2, -1]] == 255).all()
    assert all((strip == color).all(2).sum() > 50 for color in colors.values())


def test_colour_bar_matches_the_overlay():
    """A grey image whose uncertainty rises from left to right looks like the bar below it."""
    end = 2.0
    image = Image.new("RGB", (600, 50), (MIDDLE_GREY,) * 3)
    nats = np.expm1(np.linspace(0, 1, 600) * np.log1p(10 * end)) / 10
    sheet = np.asarray(uncertainty_overlay(image, np.tile(nats.astype(np.float32), (50, 1)))).astype(int)
    row, strip = sheet[25], sheet[50:]
    ends = [0.4 * 0.75 * MIDDLE_GREY + 0.6 * HEAT_TABLE[index].astype(float) for index in (0, -1)]
    assert np.abs(row[0] - ends[0]).max() <= 1 and np.abs(row[-1] - ends[1]).max() <= 1
    inside = [line for line in strip if np.abs(line[300] - row[300]).max() <= 3]
    bar = inside[len(inside) // 2]
    bar = bar[(bar < 250).any(1)]
    assert 500 < len(bar) < 600 and np.array_equal(bar, bar_colors(len(bar)))
    assert np.abs(bar - row[np.linspace(0, 599, len(bar)).round().astype(int)]).max() <= 3


def test_a_common_maximum_makes_uncertainties_comparable():
    image = Image.new("RGB", (600, 50))
    low, high = (np.full((50, 600), value, np.float32) for value in (0.1, 2.0))
    own = [np.asarray(uncertainty_overlay(image, u))[0, 0].tolist() for u in (low, high)]
    common = [np.asarray(uncertainty_overlay(image, u, maximum=2.0))[0, 0].tolist() for u in (low, high)]
    assert own[0] == own[1] == common[1] != common[0]
    certain = np.asarray(uncertainty_overlay(image, np.zeros_like(low)))[0, 0]
    assert np.abs(certain - 0.6 * HEAT_TABLE[0]).max() <= 1


@pytest.mark.parametrize("fast", [True, False])
def test_half_precision_changes_scores_a_little_and_labels_hardly(snapshot, loaded, fast):
    exact = loaded(photograph(), fast=fast)
    half = load_segmenter(snapshot, "cpu", precision="bf16")(photograph(), fast=fast)
    assert half.score.dtype == half.uncertainty.dtype == np.float32
    assert 0 < np.abs(half.score - exact.score).mean() < 0.01
    assert (half.label == exact.label).mean() > 0.95


def test_segment_computes_in_the_precision_given(snapshot, flags, tmp_path, monkeypatch, run_main):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photograph()).save("street.png")
    assert run_main("segment", "street.png", *flags, "--precision", "bf16").returncode == 0
    half = load_segmenter(snapshot, "cpu", precision="bf16")
    assert np.array_equal(np.array(Image.open("seen/street.png")), half(photograph(), fast=True).label)
    one_line_error(run_main("segment", "street.png", *flags, "--precision", "fp8"), "--precision", "bf16")


# torch.hub

HUB = """
import sys, torch, numpy as np
import utils                                  # the caller's own package of that name
found = torch.hub.load(sys.argv[1], "segmenter", snapshot=sys.argv[2], source="local", device="cpu")
image = np.load("image.npy")
result = found(image)
found.overlay(image, result, legend=True)
found.uncertainty(image, result)
import utils.mine
assert utils.mine.WHOSE == "the caller's" and sys.modules["utils"] is utils
np.save("label.npy", result.label)
"""


def test_torch_hub_works_beside_packages_of_the_same_name(snapshot, loaded, tmp_path):
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "__init__.py").write_text("")
    (tmp_path / "utils" / "mine.py").write_text('WHOSE = "the caller\'s"')
    (tmp_path / "main.py").write_text(HUB)
    np.save(tmp_path / "image.npy", photograph())
    command, environment = (
        [sys.executable, "main.py", str(ROOT), str(snapshot)],
        os.environ | {"OMP_NUM_THREADS": "1"},
    )
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert np.array_equal(np.load(tmp_path / "label.npy"), loaded(photograph()).label)


# Command line


@pytest.fixture
def street(tmp_path, monkeypatch):
    """A working folder with an image and a folder of two, among files that are neither image nor video."""
    monkeypatch.chdir(tmp_path)
    save_png(tmp_path / "street.png", photograph())
    save_png(tmp_path / "walk" / "a.png", photograph(seed=1))
    (tmp_path / "walk" / "park").mkdir()
    Image.fromarray(photograph((30, 40), seed=2)).save(tmp_path / "walk" / "park" / "b.c.jpg")
    for name in ("notes.txt", "Thumbs.db", "._a.png"):
        (tmp_path / "walk" / name).write_text("sunny")
    return tmp_path


def test_command_line_writes_labels_and_overlays(street, snapshot, loaded, run_main):
    flags = ("--restore-from", snapshot, "--save", "seen", "--cpu")
    result = run_main("segment", "street.png", *flags, "walk")
    assert result.returncode == 0, result.stderr
    images = {"street": "street.png", "a": "walk/a.png", "park/b.c": "walk/park/b.c.jpg"}
    expected = {f"{stem}{end}.png" for stem in images for end in ("", "_overlay", "_uncertainty")}
    assert {str(path.relative_to(street / "seen")) for path in files_of(street / "seen")} == expected
    for stem, path in images.items():
        image = Image.open(path)
        found = loaded(image)
        overlay, heat = loaded.overlay(image, found, legend=True), loaded.uncertainty(image, found)
        assert np.array_equal(pixels(f"seen/{stem}.png"), found.label)
        assert np.array_equal(pixels(f"seen/{stem}_overlay.png"), np.asarray(overlay))
        assert np.array_equal(pixels(f"seen/{stem}_uncertainty.png"), np.asarray(heat))
    for _ in range(2):  # results of the first time are no inputs of the second
        again = run_main("segment", "walk", *flags[:2], "--save", "walk/seen", "--cpu", "--fast")
        assert again.returncode == 0 and "2 inputs" in again.stdout


def test_flags_change_size_and_passes(street, snapshot, flags, loaded, run_main):
    options = ("--uncertainty-max", "3", "--input-size", "48,24")
    assert run_main("segment", *options, "street.png", *flags).returncode == 0
    other = load_segmenter(snapshot, "cpu", input_size=(24, 48))
    found = other(photograph(), fast=True)
    assert np.array_equal(pixels("seen/street.png"), found.label)
    assert not np.array_equal(found.label, loaded(photograph()).label)
    heat = np.asarray(other.uncertainty(photograph(), found, maximum=3))
    assert np.array_equal(pixels("seen/street_uncertainty.png"), heat)
    squeezed = run_main("segment", "--input-size", "24,24", "street.png", *flags)
    assert "--input-size: 1 of 1 images are stretched to 24,24" in squeezed.stdout


def test_images_of_every_kind_are_read(street, flags, run_main):
    folder = street / "odd"
    folder.mkdir()
    image = Image.fromarray(photograph((30, 60)))
    saved = {
        "upper.JPG": image,
        "web.webp": image,
        "palette.png": image.quantize(16),
        "alpha.png": image.convert("RGBA"),
        "grey.tiff": image.convert("L"),
        "bits.png": image.convert("1"),
        "one.png": image.resize((1, 1)),
        "tall.png": image.resize((20, 300)),
        "wide.png": image.resize((600, 20)),
    }
    for name, kind in saved.items():
        kind.save(folder / name)
    result = run_main("segment", "odd", *flags)
    assert result.returncode == 0 and "9 inputs" in result.stdout, result.stderr
    for name, kind in saved.items():
        assert Image.open(street / "seen" / f"{name.partition('.')[0]}.png").size == kind.size


@pytest.mark.parametrize(
    "prepare, inputs, save, named",  # of the error
    [
        (None, ["gone.png"], "seen", ["gone.png", "no such file"]),
        (None, ["walk/notes.txt"], "seen", ["notes.txt", "not a readable image"]),
        (lambda f: (f / "cut.jpg").write_bytes(b""), ["street.png", "cut.jpg"], "seen", ["cut.jpg"]),
        (lambda f: (f / "empty").mkdir(), ["empty"], "seen", ["empty", "no file here ends in"]),
        (lambda f: save_png(f / "p/street.png", photograph()), ["street.png", "p"], "seen", ["p/street"]),
        (None, ["street.png", "street.png"], "seen", ["street.png", "both"]),
        (lambda f: save_png(f / "p/street_overlay.png", photograph()), ["street.png", "p"], "seen", ["p/"]),
        (None, ["street.png"], ".", ["--save .", "overwrite", "street.png"]),
        (None, ["walk"], "walk", ["overwrite", "a.png"]),
        (lambda f: save_png(f / "deep.png", np.zeros((4, 4), np.uint16)), ["deep.png"], "seen", ["8-bit"]),
        (lambda f: (f / "seen").write_text("mine"), ["street.png"], "seen", ["seen", "cannot write"]),
        (None, [], "seen", ["INPUT"]),
    ],
)  # fmt: skip
def test_bad_inputs_are_one_line(street, snapshot, run_main, prepare, inputs, save, named):
    if prepare:
        prepare(street)
    before = files_of(street)
    result = run_main("segment", *inputs, "--restore-from", snapshot, "--save", save, "--cpu")
    one_line_error(result, *named)
    assert files_of(street) == before


def test_a_snapshot_must_be_named(street, run_main):
    one_line_error(run_main("segment", "street.png"), "--restore-from")
    one_line_error(run_main("export_onnx"), "--restore-from")


# Videos


def write_video(path, frames, times=None, pix_fmt="yuv420p"):
    """A video of ten frames per second, or of frames at `times` in seconds."""
    import av

    times = [index / 10 for index in range(len(frames))] if times is None else times
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for pixels, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def read_video(path):
    import av

    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return [f.to_ndarray(format="rgb24") for f in frames], [f.time for f in frames]


@needs_video
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_video_becomes_an_overlay_frame_by_frame(street, flags, loaded, run_main, suffix):
    written = [photograph((96, 192), seed) for seed in (0, 0, 1, 1, 2)]
    write_video(street / f"drive{suffix}", written, times=[0, 0.1, 0.2, 0.5, 1.3])
    result = run_main("segment", f"drive{suffix}", "street.png", *flags)
    assert result.returncode == 0, result.stderr
    frames, times = read_video(street / f"drive{suffix}")
    shown, shown_times = read_video(street / "seen/drive_overlay.mp4")
    assert shown_times == pytest.approx(times, abs=2e-3) and len(shown) == 5
    for frame, found in zip(frames, shown, strict=True):
        label = loaded(frame, fast=True).label
        sheet = np.asarray(
            overlay_with_legend(Image.fromarray(frame), label, loaded.colors, every_class=True)
        )
        assert found.shape == sheet.shape
        assert np.abs(found.astype(int) - sheet).mean() < 6  # compression
    assert not list((street / "seen").glob(".*"))


@needs_video
def test_odd_sizes_and_single_frames_are_read(street, flags, run_main):
    write_video(street / "odd.mkv", [photograph((51, 97), seed) for seed in range(2)], pix_fmt="yuv444p")
    write_video(street / "one.MP4", [photograph((96, 192))])
    result = run_main("segment", "odd.mkv", "one.MP4", *flags)
    assert result.returncode == 0, result.stderr
    assert [len(read_video(street / f"seen/{stem}_overlay.mp4")[0]) for stem in ("odd", "one")] == [2, 1]


@needs_video
def test_damaged_videos_are_one_line(street, flags, run_main):
    write_video(street / "drive.mp4", [photograph((96, 192), seed) for seed in range(3)])
    whole = (street / "drive.mp4").read_bytes()
    for content in (b"no video", whole[: len(whole) // 2]):
        (street / "drive.mp4").write_bytes(content)
        one_line_error(run_main("segment", "drive.mp4", *flags), "drive.mp4", "not a readable video")
    assert not (street / "seen").exists()


@needs_video
def test_video_that_cannot_be_written_names_the_target(street, flags, run_main, monkeypatch):
    import av

    write_video(street / "drive.mp4", [photograph((96, 192))])

    def full(*_, **__):
        raise av.error.FFmpegError(28, "No space left on device")

    monkeypatch.setattr("segment.overlay_with_legend", full)  # as if PyAV failed while it writes
    line = one_line_error(run_main("segment", "drive.mp4", *flags), "drive_overlay.mp4", "No space left")
    assert "cannot write" in line and not list((street / "seen").iterdir())


def test_without_pyav_one_line_names_what_to_install(street, flags, run_main, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (street / "drive.mp4").write_bytes(b"")
    one_line_error(run_main("segment", "drive.mp4", *flags), "PyAV", "requirements-video.txt")
    assert run_main("segment", "street.png", *flags).returncode == 0


# ONNX


@pytest.fixture(scope="module")
def exported(snapshot, tmp_path_factory):
    """The ONNX file of the snapshot, and what the script printed."""
    path = tmp_path_factory.mktemp("onnx") / "network.onnx"
    size = f"{EXPORT_SIZE[1]},{EXPORT_SIZE[0]}"
    flags = ("--restore-from", snapshot, "--save", path, "--logits", "--input-size", size)
    return path, run_in(path.parent, "export_onnx", *flags)


@needs_export
def test_onnx_file_is_the_network(snapshot, exported):
    import onnxruntime

    path, result = exported
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert "differences" in result.stdout and len(result.stdout.splitlines()) == 4
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    assert {name: tuple(color) for name, color in classes.items()} == CITYSCAPES_COLORS
    images = np.stack([photograph(EXPORT_SIZE, seed) for seed in range(3)])
    label, score, uncertainty, logits = session.run(None, {"images": images})
    assert label.dtype == np.uint8 and logits.shape == (3, 19, 8, 12)
    loaded = load_segmenter(snapshot, "cpu", input_size=EXPORT_SIZE)
    for index, image in enumerate(images):
        expected = loaded(image, fast=True)
        assert (label[index] == expected.label).mean() > 0.999
        assert np.abs(score[index] - expected.score).max() < 1e-4
        assert np.abs(uncertainty[index] - expected.uncertainty).max() < 1e-3


@needs_export
def test_an_export_leaves_the_preprocessing_as_it_was(exported):
    """The exporter traces with tensors that have no values; none may stay behind in a cache."""
    images = torch.randint(0, 256, (1, *EXPORT_SIZE, 3), dtype=torch.uint8)
    expected = images.flip(3).permute(0, 3, 1, 2) - torch.tensor(MEAN_BGR)[:, None, None]
    assert torch.equal(to_network_input(images), expected)


@needs_export
def test_onnx_file_that_differs_is_not_kept(exported, tmp_path, run_main, monkeypatch):
    """The exporter is made to write another network than the one it was given."""
    other = save_snapshot(tmp_path / "other")
    state = torch.load(other, weights_only=True)
    state["layer6.head.1.weight"] *= 1.05
    torch.save(state, other)
    save = tmp_path / "onnx" / "network.onnx"
    save.parent.mkdir()
    save.write_text("an earlier one")
    monkeypatch.setattr("export_onnx.write_onnx", lambda path, *_: shutil.copy(exported[0], path))
    size = f"{EXPORT_SIZE[1]},{EXPORT_SIZE[0]}"
    result = run_main(
        "export_onnx", "--restore-from", other, "--save", save, "--logits", "--input-size", size
    )
    one_line_error(result, "differs", "no file is kept")
    assert [path.read_text() for path in save.parent.iterdir()] == ["an earlier one"]


@needs_export
@pytest.mark.parametrize(
    "output, wrong, named",
    [
        (0, lambda label: 18 - label, "label by up to"),
        (1, lambda score: score * np.nan, "score by up to nan"),
        (2, lambda uncertainty: uncertainty + 0.1, "uncertainty by up to 1.0e-01"),
        (2, lambda uncertainty: uncertainty + 1e-5, None),
    ],
)
def test_onnx_check_compares_every_output(loaded, monkeypatch, output, wrong, named):
    import onnxruntime

    model = SingleScaleModel(loaded.network).eval()

    def run(_, __, inputs):
        outputs = [values.numpy() for values in model(torch.from_numpy(inputs["images"]))]
        outputs[output] = wrong(outputs[output])
        return outputs

    names = [SimpleNamespace(name=name) for name in ("label", "score", "uncertainty")]
    session = type(
        "Session", (), {"__init__": lambda *_, **__: None, "get_outputs": lambda _: names, "run": run}
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    if named is None:
        assert set(check_onnx("network.onnx", model, SIZE)) == {"label", "score", "uncertainty"}
    else:
        with pytest.raises(UserError, match=named):
            check_onnx("network.onnx", model, SIZE)


def test_without_onnx_one_line_names_what_to_install(snapshot, tmp_path, run_main, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = run_main("export_onnx", "--restore-from", snapshot, "--save", tmp_path / "network.onnx")
    one_line_error(result, "onnx", "requirements-export.txt")
