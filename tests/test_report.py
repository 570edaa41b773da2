"""What an evaluation writes for people and programs, and the pages made from it."""

import base64
import csv
import html
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from engine.evaluation import PixelCounts
from report.comparison import miou_gain
from report.curves import charts, moving_average
from report.pages import worst_and_best
from report.pictures import change_map, mistakes, nats_scale
from report.result_folder import ImageScores, Result, read_result
from tests.conftest import (
    LABEL_IDS,
    PREDICTION,
    TRAINING,
    cityscapes_names,
    iou_of_files,
    label_blocks,
    make_unsure,
    one_line_error,
    run_in,
    save_png,
    write_world,
)
from utils.pictures import heat_levels, nats_of_levels

CLASSES = 19
IMAGES = cityscapes_names(2)
TRAIN_ID = np.full(256, 255)
TRAIN_ID[list(LABEL_IDS)] = range(CLASSES)
WRONG, RIGHT = (213, 94, 0), (226, 230, 233)
A, B = "result/a", "result/b"


class Page(HTMLParser):
    """A page: its tags as a browser parses them, its text, and what stands in its sections and tables."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(self.source)
        self.rows = [
            [text_of(cell) for cell in re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row, re.S)]
            for row in re.findall(r"<tr.*?</tr>", self.source, re.S)
        ]
        titled = (part.split("</h2>") for part in self.source.split("<h2>")[1:])
        self.sections = {  # title -> names of the images in it
            text_of(title): [text_of(name) for name in re.findall(r"<h3.*?>(.*?)</h3>", body, re.S)]
            for title, body in titled
        }

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def row(self, head: str) -> list[str]:
        """The cells of the first row that starts so."""
        return next(row[1:] for row in self.rows if row[0] == head)

    def pictures(self, alt: str) -> list[np.ndarray]:
        """The embedded pictures with such an alternative text, (H, W, 3)."""
        found = [attrs["src"] for tag, attrs in self.tags if tag == "img" and attrs["alt"] == alt]
        data = [base64.b64decode(source.partition("base64,")[2]) for source in found]
        return [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in data]


def text_of(markup: str) -> str:
    return html.unescape(re.sub(r"<.*?>", "", markup))


def self_contained(page: Page) -> None:
    """Assert that the page runs nothing and asks for nothing."""
    assert "default-src 'none'" in next(
        a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    for tag, attrs in page.tags:
        assert tag not in ("script", "iframe", "object", "base", "form")
        assert not any(name.startswith("on") for name in attrs), attrs
        assert attrs.get("src", "data:").startswith("data:")
        assert attrs.get("href", "#").startswith(("#", "data:"))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def label_of(world: Path, name: str) -> np.ndarray:
    file = world / "data/Cityscapes/data/gtFine/val" / name.replace("leftImg8bit", "gtFine_labelIds")
    return TRAIN_ID[pixels_of(file)]


def scores_by_hand(label: np.ndarray, prediction: np.ndarray) -> tuple[float, float]:
    """Pixel accuracy and mean IoU of one image."""
    _, values = iou_of_files([label], [prediction], CLASSES)
    known = label < 255
    return np.mean(label[known] == prediction[known]), np.nanmean(values)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with two evaluations of one network: `A` by two weightings with a page, `B` by the second."""
    world = write_world(tmp_path_factory.mktemp("world"))
    flags = (*TRAINING, "--use-se", "--norm-style", "gn")
    trained = run_in(world, "train_ms", "--snapshot-dir", "snapshots", *flags, "--num-steps", "1")
    assert trained.returncode == 0, trained.stderr
    make_unsure(world / "snapshots/GTA5_1.pth")
    # Labels by which images differ: more and more pixels are what the network sees.
    evaluate = ("evaluate_cityscapes", "--restore-from", "snapshots/GTA5_1.pth", *PREDICTION)
    assert run_in(world, *evaluate, "--save", "first").returncode == 0
    ids = np.array(LABEL_IDS, np.uint8)
    for number, name in enumerate(IMAGES):
        seen = pixels_of(world / "first" / name)
        path = world / "data/Cityscapes/data/gtFine/val" / name.replace("leftImg8bit", "gtFine_labelIds")
        label = pixels_of(path).copy()
        rows = (6, 30, 12, 20)[number]
        label[:rows] = ids[seen[:rows]]
        label[40:44] = 0  # without a class
        save_png(path, label)
    a = run_in(world, *evaluate, "--save", A, "--weights", "1:0.5,0:1", "--report", "--report-images", "1")
    b = run_in(world, *evaluate, "--save", B, "--weights", "0:1")
    assert a.returncode == b.returncode == 0, a.stderr + b.stderr
    return world, a.stdout


@pytest.fixture
def here(world, tmp_path, monkeypatch):
    """A copy of that folder, made the current one."""
    shutil.copytree(world[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Numbers


def test_the_table_counts_pixels_and_images(world):
    folder, printed = world
    labels = np.stack([label_of(folder, name) for name in IMAGES])
    for index, name in ((0, "road"), (18, "bicycle")):
        count = int((labels == index).sum())
        share = 100 * count / (labels < 255).sum()
        assert re.search(rf"^{name} .* {count:,} +{share:.2f} %$", printed, re.M)
    assert f"4 images, {(labels < 255).sum():,} labelled pixels" in printed


def test_csv_of_the_classes_is_the_json_and_what_the_files_give(world):
    folder = world[0] / A
    metrics = json.loads((folder / "metrics.json").read_text())
    matrix, values = iou_of_files(
        (label_of(world[0], name) for name in IMAGES), (pixels_of(folder / n) for n in IMAGES), CLASSES
    )
    rows = table(folder / "metrics.csv")
    assert list(rows[0]) == ["kind", "name", "pixels", "share", "IoU 1:0.5", "IoU 0:1"]
    classes, means = rows[:CLASSES], rows[CLASSES:]
    assert [row["name"] for row in classes] == list(metrics["iou"])
    assert {row["kind"] for row in classes} == {"class"}
    assert [int(row["pixels"]) for row in classes] == matrix.sum(1).tolist()
    assert [float(row["share"]) for row in classes] == pytest.approx(matrix.sum(1) / matrix.sum(), abs=1e-12)
    for row, value in zip(classes, values, strict=True):
        assert (float(row["IoU 1:0.5"]) if row["IoU 1:0.5"] else np.nan) == pytest.approx(value, nan_ok=True)
        for title, column in metrics["classifiers"].items():
            assert (float(row[f"IoU {title}"]) if row[f"IoU {title}"] else None) == column["iou"][row["name"]]
    assert [(row["kind"], row["name"], row["pixels"]) for row in means] == [("mean", "mIoU", "")]
    assert float(means[0]["IoU 1:0.5"]) == metrics["miou"] == pytest.approx(np.nanmean(values))
    assert metrics["pixel_accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum(), abs=1e-12)


def test_counts_of_the_images_are_those_of_the_files(world):
    with np.load(world[0] / A / "image_counts.npz") as arrays:
        counts, mean = arrays["counts"], arrays["mean_classes"]
    assert counts.shape == (4, 2, 3, CLASSES) and mean.tolist() == list(range(CLASSES))
    for name, of_image in zip(IMAGES, counts[:, 0], strict=True):
        matrix, _ = iou_of_files([label_of(world[0], name)], [pixels_of(world[0] / A / name)], CLASSES)
        assert np.array_equal(of_image, [np.diag(matrix), matrix.sum(1), matrix.sum(0)])


def test_csv_of_the_images_has_the_scores_of_each_by_each_weighting(world):
    folder = world[0]
    rows, alone = table(folder / A / "images.csv"), table(folder / B / "images.csv")
    assert [row["image"] for row in rows] == IMAGES
    for row, by_the_second in zip(rows, alone, strict=True):
        name = row["image"]
        label, prediction = label_of(folder, name), pixels_of(folder / A / name)
        accuracy, miou = scores_by_hand(label, prediction)
        assert int(row["pixels"]) == (label < 255).sum()
        assert float(row["accuracy 1:0.5"]) == pytest.approx(accuracy, abs=1e-12)
        assert float(row["mIoU 1:0.5"]) == pytest.approx(miou, abs=1e-12)
        for field in ("accuracy 0:1", "mIoU 0:1"):
            assert row[field] == by_the_second[field]
    assert len({row["accuracy 1:0.5"] for row in rows}) == 4
    assert any(row["accuracy 0:1"] != row["accuracy 1:0.5"] for row in rows)


def test_the_heat_maps_read_as_nats(world):
    result = read_result(world[0] / A)
    for name, scores in result.images.items():
        nats = result.uncertainty(name)
        assert nats.shape == (48, 96) and nats.max() == pytest.approx(scores.uncertainty_max, rel=0.03)
        assert nats.mean() == pytest.approx(scores.uncertainty_mean, rel=0.03) and nats.mean() > 0


@pytest.mark.parametrize("maximum", [1e-6, 0.3, 12.0])
def test_levels_of_a_heat_map_tell_the_nats_to_a_step(maximum):
    nats = torch.linspace(0, maximum, 4001)[None]
    found = nats_of_levels(heat_levels(nats).numpy(), maximum)
    step = np.log1p(10 * maximum) / 255 * (1 + 10 * nats.numpy()) / 10
    assert found[0, 0] == 0 and found[0, -1] == pytest.approx(maximum, rel=1e-5)
    assert (np.abs(found - nats.numpy()) <= 1.1 * step).all()


def test_an_image_without_a_labelled_pixel_has_no_scores_and_shows_nowhere():
    counts = PixelCounts(2, ["x"], 3, torch.device("cpu"))
    label = torch.tensor([[0, 1, 1, 255]])
    counts.add(1, label, [torch.tensor([[0, 1, 2, 2]])], torch.tensor([[0.0, 1.0, 0.5, 0.5]]))
    counts.add(0, torch.full((1, 4), 255), [torch.zeros(1, 4, dtype=torch.int64)])
    empty, scored = counts.image_rows(["a.png", "b.png"], range(3))
    assert list(empty.values()) == ["a.png", 0, None, None, None, None]
    # road 1/1, sidewalk 1/2, building, only predicted, 0/1; unlabelled pixels count nowhere
    assert list(scored.values()) == ["b.png", 3, 2 / 3, 0.5, 0.5, 1.0]
    assert list(scored) == ["image", "pixels", "accuracy x", "mIoU x", "uncertainty_mean", "uncertainty_max"]


def test_worst_and_best_share_no_image():
    images = {str(i): ImageScores(9, a, 0.5, None, None) for i, a in enumerate((0.3, 0.9, 0.1, 0.5, 0.2))}
    images["unlabelled"] = ImageScores(0, None, None, None, None)
    assert worst_and_best(images, 2) == (["2", "4"], ["1", "3"])
    assert worst_and_best(images, 9) == (["2", "4", "0"], ["1", "3"])
    assert worst_and_best(images, 0) == ([], [])


# The page of one evaluation


def test_page_shows_the_numbers_of_the_files(world):
    folder = world[0] / A
    page = Page(folder / "report.html")
    matrix, values = iou_of_files(
        (label_of(world[0], name) for name in IMAGES), (pixels_of(folder / n) for n in IMAGES), CLASSES
    )
    names = list(json.loads((folder / "metrics.json").read_text())["iou"])
    shares = 100 * matrix.sum(1) / matrix.sum()
    for index, name in enumerate(names):
        share, iou, _ = page.row(name)
        assert (share, iou) == (f"{shares[index]:.1f}", f"{100 * values[index]:.1f}")
    assert page.row("mIoU")[1] == f"{100 * np.nanmean(values):.1f}"
    of_road = [f"{share:.0f}" if share >= 0.5 else "" for share in 100 * matrix[0] / matrix[0].sum()]
    assert of_road in [row[1:] for row in page.rows]
    assert f"{matrix.sum():,} labelled pixels" in page.text and "nats" in page.text
    self_contained(page)


def test_page_shows_the_worst_image_first_with_its_maps(world):
    folder = world[0]
    page = Page(folder / A / "report.html")
    scores = {n: scores_by_hand(label_of(folder, n), pixels_of(folder / A / n))[0] for n in IMAGES}
    worst, best = min(scores, key=scores.get), max(scores, key=scores.get)
    assert page.sections["Worst images"] == [worst] and page.sections["Best images"] == [best]
    label, prediction = label_of(folder, worst), pixels_of(folder / A / worst)
    (colors,) = page.pictures(f"prediction of Prediction for {worst}")
    assert np.array_equal(
        colors, np.asarray(Image.open(folder / A / worst.replace(".png", "_color.png")).convert("RGB"))
    )
    (errors,) = page.pictures(f"wrong pixels of {worst}")
    assert np.array_equal((errors == WRONG).all(2), (label < 255) & (label != prediction))
    assert np.array_equal((errors == RIGHT).all(2), label == prediction)
    (image,) = page.pictures(f"image {worst}")
    assert np.array_equal(image, pixels_of(folder / "data/Cityscapes/data/leftImg8bit/val" / worst))
    assert f"{100 * scores[worst]:.1f} % of {(label < 255).sum():,} labelled pixels right" in page.text


def test_what_is_uncertain_is_bright_and_what_is_sure_dark(world):
    folder, name = world[0], Page(world[0] / A / "report.html").sections["Worst images"][0]
    page = Page(folder / A / "report.html")
    heat = pixels_of(folder / A / name.replace(".png", "_heatmap.png")).astype(int)
    score = pixels_of(folder / A / name.replace(".png", "_score.png")).astype(int)
    for alt, doubt in (("uncertainty", heat), ("confidence", -score)):
        (shown,) = page.pictures(f"{alt} of {name}")
        brightness = shown.astype(int) @ (299, 587, 114)
        assert np.corrcoef(brightness.ravel(), doubt.ravel())[0, 1] > 0.5


def test_a_page_is_made_again_without_predicting(here, run_main):
    before = Page(here / A / "report.html")
    (here / A / "report.html").unlink()
    result = run_main("report", A, "--images", "1")
    assert result.returncode == 0 and result.stdout == f"The page: {A}/report.html\n", result.stderr
    after = Page(here / A / "report.html")
    assert after.sections == before.sections and after.rows == before.rows
    assert run_main("report", A, "--images", "9").returncode == 0
    sections = Page(here / A / "report.html").sections
    assert sorted(sections["Worst images"] + sections["Best images"]) == IMAGES


def test_files_of_predictions_have_a_page_too(here, run_main):
    wrong = here / "theirs" / IMAGES[2]
    for name in IMAGES:
        label = label_of(here, name)
        save_png(here / "theirs" / name, np.where(label < 255, label, 3).astype(np.uint8))
    save_png(wrong, np.full((48, 96), 255, np.uint8))  # no class
    flags = ("--predictions", "theirs", "--save", "scored", "--report", "--report-images", "1")
    result = run_main("evaluate_cityscapes", *flags)
    assert result.returncode == 0, result.stderr
    page = Page(here / "scored" / "report.html")
    assert page.sections["Worst images"] == [IMAGES[2]]
    assert "0.0 % of" in page.text and "taken for no class" in page.text and "nats" not in page.text
    assert page.row("label ↓ predicted →")[-1] == "no class"
    shares = {row["name"]: float(row["share"]) for row in table(here / "scored/metrics.csv")[:CLASSES]}
    assert all(page.row(name)[0] == f"{100 * share:.1f}" for name, share in shares.items() if share)
    rows = table(here / "scored" / "images.csv")
    assert [float(row["accuracy files"]) for row in rows] == [1, 1, 0, 1]
    assert {row["uncertainty_max"] for row in rows} == {""}
    (prediction,) = page.pictures(f"prediction of Prediction for {IMAGES[2]}")
    assert not prediction.any()
    self_contained(page)


HOSTILE = "<script>alert(1)</script>\"'&"
NAMED = ("<img src=x onerror=alert(1)>.png", "a\"b' & c,d;=1+1.png")
HOSTILE_FILES = (*NAMED, "two\nlines.png", "'quoted'.png", "-2+3.png", "@SUM(A1).png")  # which no flag takes


def test_hostile_names_are_text(tmp_path, monkeypatch, run_main):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in HOSTILE_FILES:
        save_png(tmp_path / "data/images" / name, rng.integers(0, 256, (8, 16, 3), np.uint8))
        save_png(tmp_path / "data/labels" / name, label_blocks(rng, (8, 16), (0, 1), 4))
        save_png(tmp_path / "theirs" / name, label_blocks(rng, (8, 16), (0, 1), 4))
    description = {"root": "data", "classes": {HOSTILE: {"ids": 0}, "=1+1": {"ids": 1}}}
    Path("own.yaml").write_text(yaml.safe_dump(description))
    flags = ("--predictions", "theirs", "--source", "own.yaml", "--target", "own.yaml", "--report")
    for folder in ("<b>one", "<b>two"):
        result = run_main("evaluate_cityscapes", *flags, "--save", folder)
        assert result.returncode == 0, result.stderr
    cells = [f"'{name}" if name[0] in "'-@" else name for name in sorted(HOSTILE_FILES)]
    assert [row["image"] for row in table(tmp_path / "<b>one" / "images.csv")] == cells  # text, no formulas
    assert [row["name"] for row in table(tmp_path / "<b>one" / "metrics.csv")] == [HOSTILE, "'=1+1", "mIoU"]
    assert sorted(read_result(Path("<b>one")).images) == sorted(HOSTILE_FILES)
    flags = ("<b>one", "<b>two", "--save", "both.html", "--names", *NAMED)
    assert run_main("report", *flags).returncode == 0
    pages = {tmp_path / "<b>one" / "report.html": HOSTILE_FILES, tmp_path / "both.html": NAMED}
    for path, images in pages.items():
        page = Page(path)
        self_contained(page)
        assert "script" not in {tag for tag, _ in page.tags}
        assert any(row[0] == HOSTILE for row in page.rows)
        shown = [name for names in page.sections.values() for name in names]
        assert sorted(shown) == sorted(images) and "<b>one" in page.text


def test_an_image_that_is_gone_since_leaves_an_empty_frame(here, run_main):
    shown = Page(here / A / "report.html").sections["Worst images"][0]
    (here / "data/Cityscapes/data/leftImg8bit/val" / shown).unlink()
    assert run_main("report", A, "--images", "1").returncode == 0
    page = Page(here / A / "report.html")
    assert page.text.count("no image") == 1 and page.pictures(f"uncertainty of {shown}")


def test_mistakes_in_words():
    label = np.array([[0, 0, 0, 0, 1, 1, 2, 255, 2, 2]])
    prediction = np.array([[0, 1, 1, 1, 0, 9, 2, 0, 2, 2]])
    words = "road taken for sky (33.3 %), sky taken for road (11.1 %), sky taken for no class (11.1 %)"
    assert mistakes(label, prediction, ["road", "sky", "sea"]) == words
    assert mistakes(label, label, ["road", "sky", "sea"]) == "none"


def test_change_of_two_predictions():
    label = np.array([[0, 0, 0, 0, 255]])
    shown = np.asarray(change_map(label, np.array([[0, 0, 1, 1, 0]]), np.array([[0, 1, 0, 1, 0]]), 2))[0]
    assert shown.tolist() == [[226, 230, 233], [146, 70, 160], [0, 158, 115], [213, 94, 0], [139, 148, 156]]


def test_numbers_below_a_colour_bar_stand_where_their_colours_are():
    places = nats_scale(4.2).ticks
    assert places.pop(0.0) == "0" and places.pop(1.0) == "4.2+" and len(places) >= 2
    for place, value in places.items():
        assert place == pytest.approx(np.log1p(10 * float(value)) / np.log1p(42), abs=1e-9)


# Several evaluations side by side


def test_comparison_shows_every_evaluation_and_where_the_last_one_gains_and_loses(here, run_main):
    result = run_main("report", A, B, "--titles", "both,auxiliary", "--images", "1", "--save", "c.html")
    assert result.returncode == 0 and result.stdout.endswith("The page: c.html\n"), result.stderr
    page = Page(here / "c.html")
    self_contained(page)
    before, after = (
        {n: scores_by_hand(label_of(here, n), pixels_of(here / folder / n))[0] for n in IMAGES}
        for folder in (A, B)
    )
    ordered = sorted(IMAGES, key=lambda name: after[name] - before[name])
    wanted = {"loses": ordered[0], "gains": ordered[-1]}
    chosen = {
        f"Where “auxiliary” {what} most": [name]
        for what, name in wanted.items()
        if (after[name] > before[name]) == (what == "gains")
    }
    assert chosen and {title: names for title, names in page.sections.items() if names} == chosen
    metrics = [json.loads((here / folder / "metrics.json").read_text()) for folder in (A, B)]
    mious = [f"{100 * m['miou']:.1f}" for m in metrics]
    assert page.row("mIoU")[1:3] == mious
    accuracies = [f"{100 * m['pixel_accuracy']:.1f}" for m in metrics]
    assert page.row("pixel accuracy")[1:3] == accuracies and accuracies[0] != accuracies[1]
    printed = r"^auxiliary: mIoU [\d.]+, (\S+ points \[\S+ to \S+\]) over both$"
    gain = re.search(printed, result.stdout, re.M)[1]
    numbers = [float(number) for number in re.findall(r"[+-][\d.]+", gain.replace("−", "-"))]
    assert numbers[0] == pytest.approx(100 * (metrics[1]["miou"] - metrics[0]["miou"]), abs=0.05)
    assert numbers[1] <= numbers[0] <= numbers[2] and gain in page.text
    (shown, *_), *_ = chosen.values()
    for title, folder in (("both", A), ("auxiliary", B)):
        (prediction,) = page.pictures(f"prediction of {title} for {shown}")
        colors = Image.open(here / folder / shown.replace(".png", "_color.png")).convert("RGB")
        assert np.array_equal(prediction, np.asarray(colors))
    assert len(page.pictures(f"uncertainty of {shown}")) == 2


def test_comparison_of_named_images(here, run_main):
    assert run_main("report", A, B, "--names", IMAGES[3], IMAGES[0]).returncode == 0
    assert Page(here / "comparison.html").sections["Images"] == [IMAGES[3], IMAGES[0]]
    one_line_error(run_main("report", A, B, "--names", "x.png"), "--names", "x.png", "images.csv")


def test_data_that_moved_are_named(here, run_main):
    (here / "data").rename(here / "elsewhere")
    one_line_error(run_main("report", A), "data/Cityscapes/data", "no such folder")
    assert run_main("report", A, "--data-dir", "elsewhere/Cityscapes/data").returncode == 0


def edit_metrics(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_counts(path: Path) -> None:
    with np.load(path) as arrays:
        np.savez(path, counts=arrays["counts"][1:], mean_classes=arrays["mean_classes"])


def rename_image(path: Path, name: str) -> None:
    """Give the first image of a result another name, in all its files."""
    path.write_text(path.read_text().replace(IMAGES[0], name))
    metrics = path.with_name("metrics.json")
    names = json.loads(metrics.read_text())["names"]
    edit_metrics(metrics, names=[name.removesuffix(".png"), *names[1:]])


DAMAGES = {
    "cut": ("metrics.json", lambda path: path.write_text(path.read_text()[:99])),
    "not an object": ("metrics.json", lambda path: path.write_text("[]")),
    "without data": ("metrics.json", lambda path: edit_metrics(path, data=None)),
    "outside the data": ("metrics.json", lambda path: edit_metrics(path, data={"set": "../.."})),
    "a colour out of range": ("metrics.json", lambda path: edit_metrics(path, colors={"road": [0, 0, 256]})),
    "no counts": ("metrics.json", lambda path: edit_metrics(path, confusion=[[-1]])),
    "no table": ("images.csv", Path.unlink),
    "another table": ("images.csv", lambda path: path.write_text("image,pixels\na.png,x\n")),
    "image above it": ("images.csv", lambda path: rename_image(path, "../a.png")),
    "image anywhere": ("images.csv", lambda path: rename_image(path, "/etc/a.png")),
    "image twice": ("images.csv", lambda path: path.write_text(path.read_text() + path.read_text()[-300:])),
    "counts cut": ("image_counts.npz", lambda path: path.write_bytes(path.read_bytes()[:200])),
    "counts of other images": ("image_counts.npz", edit_counts),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_result_is_one_line(how, here, run_main):
    name, damage = DAMAGES[how]
    damage(here / B / name)
    one_line_error(run_main("report", A, B), B, "evaluate ")
    assert not (here / "comparison.html").exists()


def test_results_that_do_not_compare_are_refused(here, run_main):
    Path("one.txt").write_text(IMAGES[0])
    flags = ("--predictions", A, "--save", "other", "--data-list", "one.txt")
    assert run_main("evaluate_cityscapes", *flags).returncode == 0
    one_line_error(run_main("report", A, "other"), A, "other", "images")
    damaged_map = here / A / IMAGES[0].replace(".png", "_heatmap.png")
    damaged_map.write_bytes(damaged_map.read_bytes()[:40])
    one_line_error(run_main("report", A), damaged_map.name, "not a readable image")
    damaged_map.unlink()
    result = run_main("report", A)
    assert result.returncode == 0
    assert f"Not shown, because their maps are gone: 1 of {len(IMAGES)} images." in result.stdout
    for group in ("Worst images", "Best images"):
        assert IMAGES[0] not in Page(here / A / "report.html").sections[group]


def test_bad_flags_of_the_page_are_one_line(here, run_main):
    for flags, named in (
        (["nowhere"], "nowhere"),
        ([A, B, "--titles", "one"], "--titles"),
        ([A, B, "--titles", "one,one"], "--titles"),
        ([A, A], "--titles"),
        ([A, "--names", IMAGES[0]], "--names"),
        ([A, "--images", "-1"], "--images"),
        ([], "RESULT"),
    ):
        one_line_error(run_main("report", *flags), named)


# The gain in mIoU


def result_with(counts: np.ndarray | None, miou: float = 0.5) -> Result:
    """A result that has these hits, labelled and predicted pixels, (images, 3, C)."""
    pixels = [0] * 40 if counts is None else counts[:, 1].sum(1).tolist()
    images = {f"{i}.png": ImageScores(n, 0.5, 0.5, None, None) for i, n in enumerate(pixels)}
    return Result(Path("x"), {"miou": miou}, images, counts)


def drawn_counts(images: int = 40, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Counts of two networks on the same labels; the second one is better, a class is rare."""
    rng = np.random.default_rng(0)
    labelled = rng.integers(1, 1000, (images, classes)) * (
        rng.random((images, classes)) < [1, 1, 1, 0.5, 0.05]
    )
    hits = [np.int64(labelled * rng.uniform(low, 1, labelled.shape)) for low in (0.2, 0.4)]
    extra = rng.integers(0, 100, labelled.shape)
    return tuple(np.stack([h, labelled, h + extra], 1) for h in hits)


def test_interval_of_a_gain_is_that_of_resampled_sets():
    first, second = drawn_counts()
    rng, gains = np.random.default_rng(1), []
    for _ in range(5000):
        drawn = rng.integers(0, 40, 40)
        mious = []
        for counts in (first, second):
            hits, labelled, predicted = counts[drawn].sum(0)
            union = labelled + predicted - hits
            mious.append(np.mean(hits[union > 0] / union[union > 0]))
        gains.append(mious[1] - mious[0])
    gain = miou_gain(result_with(first, 0.5), result_with(second, 0.6))
    assert gain.value == pytest.approx(0.1)
    width = gain.high - gain.low
    assert [gain.low, gain.high] == pytest.approx(np.percentile(gains, [2.5, 97.5]), abs=0.05 * width)
    assert gain == miou_gain(result_with(first, 0.5), result_with(second, 0.6))
    reverse = miou_gain(result_with(second, 0.6), result_with(first, 0.5))
    assert (reverse.low, reverse.high) == pytest.approx((-gain.high, -gain.low))


def test_images_are_drawn_in_pairs_whatever_their_order():
    first, second = drawn_counts()
    same = miou_gain(result_with(first), result_with(first))
    assert same == (0, 0, 0) and str(same) == "+0.0 points [+0.0 to +0.0]"
    shuffled = result_with(second[::-1])
    renamed = dict(zip(list(shuffled.images)[::-1], shuffled.images.values(), strict=True))
    shuffled = Result(shuffled.folder, shuffled.metrics, renamed, shuffled.counts)
    assert miou_gain(result_with(first), shuffled) == miou_gain(result_with(first), result_with(second))


def test_a_gain_without_counts_or_images_has_no_interval():
    first, second = drawn_counts()
    for pair in ((None, second), (first[:1], second[:1]), (first * 0, second * 0)):
        gain = miou_gain(*(result_with(counts, miou) for counts, miou in zip(pair, (0.5, 0.6), strict=True)))
        assert (gain.low, gain.high, str(gain)) == (None, None, "+10.0 points")


def test_results_from_before_the_counts_compare_without_an_interval(here, run_main):
    (here / B / "image_counts.npz").unlink()
    result = run_main("report", A, B, "--titles", "both,auxiliary")
    hint = f"No confidence interval: no image_counts.npz in {B}; evaluate again."
    assert result.returncode == 0 and hint in result.stdout and hint in Page(here / "comparison.html").text
    assert re.search(r"auxiliary: mIoU [\d.]+, [+−][\d.]+ points over both\n", result.stdout)


def test_curves_of_what_was_on(tmp_path):
    log = tmp_path / "log.jsonl"
    records = [{"iteration": i, "seg1": 2.0**-i, "kl": 0.0} for i in range(3)]
    log.write_text("\n".join(map(json.dumps, records)))
    (chart,) = charts(log)  # what is zero throughout was off
    assert chart.caption == "Segmentation losses (nats)"
    assert chart.src.startswith("data:image/svg+xml;base64,")
    assert moving_average(np.array([1.0, 2.0, 6.0, 0.0]), 1).tolist() == pytest.approx([1.5, 3, 8 / 3, 3])
