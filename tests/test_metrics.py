"""IoU against the benchmark's own evaluation, on the same prediction files."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official

from tests.conftest import (
    IDS_WITHOUT_CLASS,
    LABEL_IDS,
    TRAIN_IDS,
    cityscapes_names,
    label_blocks,
    save_png,
    write_cityscapes,
)
from utils.metrics import class_mean, confusion_matrix, format_iou_columns, iou

SIZE = (48, 96)
TO_LABEL_ID = np.zeros(256, np.uint8)  # an ignored id stands for everything that is no class
TO_LABEL_ID[: len(LABEL_IDS)] = LABEL_IDS
LABELS_ONLY_OF_CLASSES = LABEL_IDS
LABELS_WITH_IGNORED = (*LABEL_IDS, *(i for i in IDS_WITHOUT_CLASS if i <= 33))  # 34 is GTA5's own
WITHOUT_TRAIN = tuple(i for i in LABEL_IDS if i != 31)
CLASSES = tuple(range(19))
SETS = {  # label ids, predicted train ids
    "random": (LABELS_ONLY_OF_CLASSES, CLASSES),
    "ignored labels and pixels without a prediction": (LABELS_WITH_IGNORED, (*CLASSES, 255)),
    "train is absent": (WITHOUT_TRAIN, tuple(c for c in CLASSES if c != 16)),
}


def official_scores(predictions: list, labels: list) -> tuple[dict, float]:
    """IoU of each class by name and their mean, by cityscapesscripts."""
    options = SimpleNamespace(**vars(official.args))
    options.evalInstLevelScore = options.JSONOutput = options.evalPixelAccuracy = False
    options.quiet = True
    result = official.evaluateImgLists(list(map(str, predictions)), list(map(str, labels)), options)
    names = {i: official.id2label[i].name for i in LABEL_IDS}
    return {names[i]: result["classScores"][names[i]] for i in LABEL_IDS}, result["averageScoreClasses"]


@pytest.mark.parametrize("name", SETS)
def test_scores_of_prediction_files_are_the_official_ones(name, tmp_path, run_main):
    rng = np.random.default_rng(3)
    label_ids, predicted = SETS[name]
    root = write_cityscapes(tmp_path / "data", splits=["val"], size=SIZE)
    labels, predictions = [], []
    for image in cityscapes_names(2):
        label = label_blocks(rng, SIZE, label_ids, block=5)
        file = root / "gtFine" / "val" / image.replace("leftImg8bit", "gtFine_labelIds")
        labels.append(save_png(file, label))
        right = np.vectorize(lambda i: TRAIN_IDS.get(i, 0))(label).astype(np.uint8)
        keep = rng.random(SIZE) < 0.4  # so that classes differ from chance
        prediction = np.where(keep & np.isin(right, predicted), right, rng.choice(predicted, SIZE))
        save_png(tmp_path / "ours" / image, prediction.astype(np.uint8))
        predictions.append(save_png(tmp_path / "theirs" / image, TO_LABEL_ID[prediction]))
    expected, expected_mean = official_scores(predictions, labels)

    result = run_main(
        "evaluate_cityscapes",
        "--data-dir",
        root,
        "--predictions",
        tmp_path / "ours",
        "--save",
        tmp_path / "out",
    )
    assert result.returncode == 0 and result.stderr == ""
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(written["iou"]) == list(expected)
    for label, value in written["iou"].items():
        assert (np.nan if value is None else value) == pytest.approx(expected[label], abs=1e-12, nan_ok=True)
        digits = "absent" if np.isnan(expected[label]) else f"{100 * expected[label]:.2f}"
        assert re.search(rf"^{label} +{re.escape(digits)} +[\d,]+ +[\d.]+ %$", result.stdout, re.MULTILINE)
    assert written["miou"] == pytest.approx(expected_mean, abs=1e-12)
    assert re.search(rf"^mIoU +{100 * expected_mean:.2f}$", result.stdout, re.MULTILINE)
    assert 0.1 < expected_mean < 0.9 and (name != "train is absent" or written["iou"]["train"] is None)


def test_rows_are_labels_and_columns_predictions():
    labels, predictions = np.array([[0, 0, 1], [2, 255, 1]]), np.array([[0, 1, 1], [0, 2, 1]])
    expected = [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert confusion_matrix(labels, predictions, 3).tolist() == expected


def test_a_prediction_outside_the_classes_is_a_miss_and_no_hit_elsewhere():
    labels, predictions = np.array([0, 0, 0, 1, 255]), np.array([0, 255, 7, 1, 255])
    assert confusion_matrix(labels, predictions, 2).tolist() == [[1, 0], [0, 1]]
    with_void = confusion_matrix(labels, predictions, 2, void=True)
    assert with_void.tolist() == [[1, 0, 2], [0, 1, 0]]
    assert iou(with_void).tolist() == pytest.approx([1 / 3, 1])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_arrays_and_tensors_give_the_same_kind_of_result_as_they_are(dtype):
    rng = np.random.default_rng(0)
    labels, predictions = rng.choice([0, 1, 2, 3, 4, 255], (2, 30, 20)).astype(dtype)
    of_arrays = confusion_matrix(labels, predictions, 5)
    of_tensors = confusion_matrix(torch.from_numpy(labels), torch.from_numpy(predictions), 5)
    assert isinstance(of_arrays, np.ndarray) and isinstance(of_tensors, torch.Tensor)
    assert of_arrays.shape == of_tensors.shape == (5, 5)
    assert of_arrays.dtype == np.int64 and of_tensors.dtype == torch.int64
    assert of_arrays.sum() == np.sum((labels < 5) & (predictions < 5))
    assert np.array_equal(of_arrays, of_tensors.numpy())
    assert isinstance(iou(of_arrays), np.ndarray) and isinstance(iou(of_tensors), torch.Tensor)
    assert iou(of_arrays).shape == iou(of_tensors).shape == (5,)
    assert iou(of_arrays).dtype == np.float64 and iou(of_tensors).dtype == torch.float64
    assert np.array_equal(iou(of_arrays), iou(of_tensors).numpy())


def test_a_label_outside_the_classes_counts_nowhere():
    labels, predictions = np.array([0, 255, 2, -1, 200, 1]), np.array([0, 0, 1, 1, 255, 0])
    for void, expected in ((False, [[1, 0], [1, 0]]), (True, [[1, 0, 0], [1, 0, 0]])):
        assert confusion_matrix(labels, predictions, 2, void=void).tolist() == expected


def test_inputs_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="3"):
        confusion_matrix(np.zeros((2, 3), int), np.zeros((3, 2), int), 2)


def test_iou_is_nan_for_an_absent_class_and_0_for_a_missed_or_a_made_up_one():
    matrix = np.array([[4, 0, 1, 0], [2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    values = iou(matrix)
    assert values[:3].tolist() == [4 / 7, 0, 0] and np.isnan(values[3])
    for kind in (np.asarray, torch.from_numpy):
        assert class_mean(kind(values), range(4)) == pytest.approx(4 / 21, abs=1e-15)


def test_mean_over_no_class_is_nan_and_printed():
    values = iou(np.zeros((2, 2), np.int64))
    assert np.isnan(values).all() and np.isnan(class_mean(values, range(2)))
    table = format_iou_columns(["road", "sidewalk"], {"IoU": values}, {"mIoU": [0, 1]}, [0, 0])
    assert table.splitlines() == [
        "             IoU  pixels   share",
        "road      absent       0  0.00 %",
        "sidewalk  absent       0  0.00 %",
        "--------------------------------",
        "mIoU      absent",
    ]


SYNTHIA_16 = [c for c in CLASSES if c not in (9, 14, 16)]  # without terrain, truck, train
SYNTHIA_13 = [c for c in SYNTHIA_16 if c not in (3, 4, 5)]  # nor wall, fence, pole
NAMES = [f"class {c}" for c in CLASSES]


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_means_over_16_and_13_classes_come_from_one_matrix_of_19(kind):
    labels, predictions = np.random.default_rng(4).choice(CLASSES, (2, 5000))
    values = iou(kind(confusion_matrix(labels, predictions, 19)))
    for indices in (SYNTHIA_16, SYNTHIA_13):
        by_hand = []
        for c in indices:
            label, prediction = labels == c, predictions == c
            by_hand.append(np.sum(label & prediction) / np.sum(label | prediction))
        assert class_mean(values, indices) == pytest.approx(sum(by_hand) / len(indices), abs=1e-15)


def test_mean_over_a_subset_leaves_out_what_does_not_occur():
    values = np.array([0.5, np.nan, 0.2, 0.9, np.nan])
    assert class_mean(values, [0, 1, 2]) == pytest.approx(0.35, abs=1e-15)
    assert class_mean(values, range(3, 5)) == 0.9
    assert np.isnan(class_mean(values, [1, 4])) and np.isnan(class_mean(values, []))
    with pytest.raises(IndexError):
        class_mean(values, [5])


def test_table_of_several_weightings():
    values = np.array([1.0, 0.051, np.nan])
    table = format_iou_columns(
        ["road", "sidewalk", "sky"], {"1:0.5": values, "0:1": values / 2}, {"mIoU": [0, 1, 2]}
    )
    assert table.splitlines() == [
        "           1:0.5     0:1",
        "road      100.00   50.00",
        "sidewalk    5.10    2.55",
        "sky       absent  absent",
        "------------------------",
        "mIoU       52.55   26.27",
    ]


def test_table_of_several_means_marks_the_classes_in_none_of_them():
    values, titled = [0.1, 0.2, np.nan, 0.3, np.nan], torch.tensor([1, 0.5, 0.25, 0, np.nan])
    means = {"mIoU (3)": [0, 1, 4], "mIoU* (1)": [1], "none": [4]}
    table = format_iou_columns(list("abcde"), {"1:1": values, "a long title": titled}, means)
    assert table.splitlines() == [
        "               1:1   a long title",
        "a            10.00         100.00",
        "b            20.00          50.00",
        "c          (absent)        (25.00)",
        "d           (30.00)         (0.00)",
        "e           absent         absent",
        "----------------------------------",
        "mIoU (3)     15.00          75.00",
        "mIoU* (1)    20.00          50.00",
        "none        absent         absent",
    ]


def test_table_with_the_pixels_of_each_class_and_their_share():
    values, means = [1, 0.25, np.nan], {"mIoU": [0, 2]}
    table = format_iou_columns(["road", "sky", "sea"], {"IoU": values}, means, [2_000_000, 1_000_000, 0])
    assert table.splitlines() == [
        "         IoU      pixels    share",
        "road  100.00   2,000,000  66.67 %",
        "sky   (25.00)  1,000,000  33.33 %",
        "sea   absent           0   0.00 %",
        "---------------------------------",
        "mIoU  100.00",
    ]


def test_a_column_of_another_length_than_the_names_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        format_iou_columns(NAMES, {"IoU": np.zeros(18)}, {"mIoU": range(19)})


def test_large_counts_are_exact():
    matrix = np.array([[10**12 + 1, 1], [2, 10**12]])
    assert iou(matrix).tolist() == [(10**12 + 1) / (10**12 + 4), 10**12 / (10**12 + 3)]
