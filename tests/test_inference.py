"""Multi-pass prediction against its definition, written here pass by pass, in float64."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from engine.restore import rebatch
from model.deeplab_multi import DeeplabMulti
from utils import argmax
from utils.inference import predict, predict_all, predict_weightings, scaled_sizes
from utils.preprocess import to_network_input
from utils.uncertainty import dropout_divergence

PUBLISHED = (0.5, 1.0)
WEIGHTINGS = [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.5), PUBLISHED]
SIZES = [(70, 100), (64, 90)]  # of the labels; one batch may hold several
pytestmark = pytest.mark.usefixtures("float64", "one_thread")


@pytest.fixture
def network():
    """A small network whose classifiers disagree and are sure in places."""
    torch.manual_seed(0)
    network = DeeplabMulti(7, use_se=True, norm_style="gn", arch="mini")
    for classifier in (network.layer5, network.layer6):
        torch.nn.init.normal_(classifier.head[1].weight, std=0.3)
    return network.eval()


@pytest.fixture
def images():
    """A batch of two at two scales whose sides are no multiples of 8."""
    torch.manual_seed(1)
    return [torch.randn(2, 3, 65, 97) * 50, torch.randn(2, 3, 81, 121) * 50]


def upsampled(maps, size):
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


@torch.no_grad()
def by_definition(network, images, index, size, weights, mirrored_uncertainty):
    """Label, score and uncertainty of one image, as the specification words it."""
    total, logits = 0, []
    for image in (batch[index : index + 1] for batch in images):
        for mirrored in (False, True):
            z1, z2 = network(image.flip(3) if mirrored else image)
            shown = upsampled(torch.softmax(weights[0] * z1 + weights[1] * z2, 1), size)
            total = total + (shown.flip(3) if mirrored else shown)
            logits.append((z1.flip(3), z2.flip(3)) if mirrored else (z1, z2))
    (z1, z2), (z1_mirrored, z2_mirrored), *_ = logits
    if mirrored_uncertainty:
        z1, z2 = z1 + z1_mirrored, z2 + z2_mirrored
    p1, p2 = torch.softmax(z1, 1), torch.softmax(z2, 1)
    kl = (p2 * (p2.log() - p1.log())).sum(1, keepdim=True)
    return total.argmax(1)[0], total.amax(1)[0] / 4, upsampled(kl, size)[0, 0]


@pytest.mark.parametrize("mirrored_uncertainty", [False, True])
def test_prediction_is_the_sum_of_four_passes_for_each_weighting(network, images, mirrored_uncertainty):
    options = dict(mirrored_uncertainty=mirrored_uncertainty)
    results = predict_weightings(network, images, SIZES, WEIGHTINGS, **options)
    assert [len(of_image) for of_image in results] == [len(WEIGHTINGS)] * 2
    for index, (size, of_image) in enumerate(zip(SIZES, results, strict=True)):
        for weights, result in zip(WEIGHTINGS, of_image, strict=True):
            label, score, kl = by_definition(network, images, index, size, weights, **options)
            assert result.label.dtype == torch.uint8 and result.label.shape == size
            assert torch.equal(result.label.long(), label)
            assert (result.score - score).abs().max() < 1e-12
            assert (result.uncertainty - kl).abs().max() < 1e-12
            assert len(label.unique()) > 2 and score.max() - score.min() > 0.2 and kl.max() > 0.1
        scores = [result.score for result in of_image]
        assert all((a - b).abs().max() > 0.01 for k, a in enumerate(scores) for b in scores[:k])


@pytest.mark.parametrize(
    "options", [{}, dict(weights=PUBLISHED, mirrored_uncertainty=False), dict(weights=(1.0, 0.0))]
)
def test_published_weights_and_unmirrored_uncertainty_are_the_defaults(network, images, options):
    results = predict(network, images, SIZES, **options)
    assert len(results) == 2
    weights = options.get("weights", PUBLISHED)
    label, score, kl = by_definition(network, images, 0, SIZES[0], weights, mirrored_uncertainty=False)
    assert torch.equal(results[0].label.long(), label)
    assert (results[0].score - score).abs().max() < 1e-12
    assert (results[0].uncertainty - kl).abs().max() < 1e-12


def count_passes(network):
    """Sizes of what the network is shown from now on, in a list that grows."""
    shown = []
    network.register_forward_pre_hook(lambda _, args: shown.append(args[0].shape[2:]))
    return shown


@pytest.mark.parametrize("uncertainty, more", [("kl", []), ("mc-dropout", [(65, 97)])])
def test_the_network_runs_as_often_for_many_weightings_as_for_one(network, images, uncertainty, more):
    shown = count_passes(network)
    predict_weightings(network, images, SIZES, WEIGHTINGS, uncertainty=uncertainty)
    assert shown == [(65, 97)] * 2 + [(81, 121)] * 2 + more


def test_dropout_changes_the_uncertainty_and_nothing_else(network, images):
    mc = dict(uncertainty="mc-dropout", passes=4, droprate=0.5, seed=3)
    divergence = dropout_divergence(network, images[0], passes=4, rate=0.5, seed=3)
    expected = predict_weightings(network, images, SIZES, WEIGHTINGS)
    for mirrored in (False, True):
        results = predict_weightings(network, images, SIZES, WEIGHTINGS, mirrored_uncertainty=mirrored, **mc)
        for index, size in enumerate(SIZES):
            shown = upsampled(divergence[index : index + 1, None], size)[0, 0]
            for result, without in zip(results[index], expected[index], strict=True):
                assert torch.equal(result.label, without.label) and torch.equal(result.score, without.score)
                assert result.uncertainty.shape == size and torch.equal(result.uncertainty, shown)
                assert (result.uncertainty - without.uncertainty).abs().max() > 0.1
    (alone, _) = predict(network, images, SIZES, **mc)
    assert torch.equal(alone.uncertainty, results[0][0].uncertainty)


def test_an_unknown_uncertainty_is_refused(network, images):
    with pytest.raises(ValueError, match="kl, mc-dropout"):
        predict(network, images, SIZES, uncertainty="entropy")


def test_every_image_of_a_batch_is_predicted_as_alone(network):
    torch.manual_seed(2)
    scales = [torch.randint(256, (2, *size, 3), dtype=torch.uint8) for size in ((65, 97), (81, 121))]
    labels = [torch.full(size, index, dtype=torch.uint8) for index, size in enumerate(SIZES)]
    batches = [{"images": scales, "label": labels, "size": SIZES, "name": ["a.png", "b.png"]}] * 2
    shown = [to_network_input(scale) for scale in scales]
    device = torch.device("cpu")

    results = list(predict_all(network, batches, device, WEIGHTINGS, mirrored_uncertainty=True))
    assert [name for name, _, _ in results] == ["a.png", "b.png"] * 2
    assert [label.unique().item() for _, label, _ in results] == [0, 1] * 2
    alone = [([scale[i : i + 1] for scale in shown], SIZES[i : i + 1]) for i in range(2)]
    options = dict(weightings=WEIGHTINGS, mirrored_uncertainty=True)
    expected = [predict_weightings(network, *image, **options)[0] for image in alone] * 2
    for (_, _, found), of_image in zip(results, expected, strict=True):
        for prediction, right in zip(found, of_image, strict=True):
            assert torch.equal(prediction.label, right.label)
            for maps in zip(prediction[1:], right[1:], strict=True):
                torch.testing.assert_close(*maps, rtol=0, atol=1e-12)


def test_a_batch_that_does_not_fit_is_halved_and_predicted_all_the_same(network, caplog):
    scales = [torch.randint(256, (5, *size, 3), dtype=torch.uint8) for size in ((65, 97), (81, 121))]
    labels = [torch.full(SIZES[0], index, dtype=torch.uint8) for index in range(5)]
    batch = {"images": scales, "label": labels, "size": [SIZES[0]] * 5, "name": list("abcde")}
    arguments = ([batch] * 2, torch.device("cpu"), [PUBLISHED])
    expected = list(predict_all(network, *arguments))
    shown = []

    def allocate(_, inputs):
        if len(inputs[0]) > 2 and inputs[0].shape[2] > 65:  # the second scale does not fit
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        shown.append(len(inputs[0]))

    network.register_forward_pre_hook(allocate)
    found = list(predict_all(network, *arguments))
    assert [record.getMessage() for record in caplog.records] == [
        "Out of memory with 5 images at once: continuing with 2."
    ]
    assert shown == [5] * 2 + ([2] * 4 + [2] * 4 + [1] * 4) * 2
    assert [name for name, *_ in found] == list("abcde") * 2
    for (_, label, (prediction,)), (_, right_label, (right,)) in zip(found, expected, strict=True):
        assert torch.equal(label, right_label) and torch.equal(prediction.label, right.label)
        torch.testing.assert_close(prediction.score, right.score, rtol=0, atol=1e-12)


def test_an_image_that_does_not_fit_alone_and_other_errors_are_raised(network):
    batch = {"images": [torch.zeros(2, 9, 9, 3)], "label": [torch.zeros(9, 9)] * 2, "size": [(9, 9)] * 2}
    batch |= {"name": ["a", "b"]}
    for error in (torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUDA error: unspecified")):
        failing = mock.Mock(side_effect=error)
        with pytest.raises(RuntimeError, match="CUDA") as raised:
            list(predict_all(failing, [batch], torch.device("cpu"), [PUBLISHED]))
        assert raised.value is error
        assert failing.call_count == (2 if isinstance(error, torch.OutOfMemoryError) else 1)


def test_a_mirrored_image_is_predicted_as_the_mirror_image(network, images):
    for result, mirrored in zip(
        predict(network, images, SIZES, mirrored_uncertainty=True),
        predict(network, [batch.flip(3) for batch in images], SIZES, mirrored_uncertainty=True),
        strict=True,
    ):
        assert torch.equal(result.label, mirrored.label.flip(1))
        assert (result.score - mirrored.score.flip(1)).abs().max() < 1e-12
        assert (result.uncertainty - mirrored.uncertainty.flip(1)).abs().max() < 1e-12
        assert not torch.equal(result.label, result.label.flip(1))


def test_one_scale_scores_by_its_two_passes(network, images):
    (result,) = predict(network, [images[0][:1]], [(65, 97)])
    assert result.score.min() > 1 / 7 and result.score.max() <= 1


def test_prediction_leaves_nothing_to_differentiate(network, images):
    assert not predict(network, images, SIZES)[0].score.requires_grad


def test_scaled_sizes_are_those_of_the_papers():
    assert scaled_sizes((512, 1024), (1, 1.25)) == [(512, 1024), (640, 1280)]
    assert scaled_sizes((960, 1280), (1, 0.8)) == [(960, 1280), (768, 1024)]


@pytest.mark.parametrize("sureness", [0.1, 5])
@pytest.mark.parametrize("tile, chunk", [((16, 32), 1024), ((4, 3), 5), ((100, 100), 1)])
@pytest.mark.parametrize("sizes", [[(9, 13), (11, 16)], [(9, 13)], [(1, 1), (5, 3)], [(80, 170), (3, 4)]])
def test_tiles_contain_the_maximum_of_the_whole(sizes, tile, chunk, sureness, monkeypatch):
    monkeypatch.setattr(argmax, "TILE", tile)
    monkeypatch.setattr(argmax, "CHUNK", chunk)
    torch.manual_seed(0)
    maps = [(sureness * torch.randn(1, 7, *size)).softmax(1) for size in sizes]
    size = (70, 61)
    total = sum(upsampled(m, size) for m in maps)[0]
    value, index = argmax.max_of_sum(maps, size)
    assert (value - total.amax(0)).abs().max() < 1e-14
    assert index.dtype == torch.uint8 and torch.equal(index.long(), total.argmax(0))


def test_the_first_of_equal_classes_wins_and_nan_is_kept():
    maps = torch.zeros(1, 5, 4, 4)
    maps[:, 2:4] = 1
    value, index = argmax.max_of_sum([maps, maps], (40, 70))
    assert (index == 2).all() and (value == 2).all()
    maps[0, 0, 0, 0] = torch.nan
    value, _ = argmax.max_of_sum([maps, maps], (40, 70))
    assert value[0, 0].isnan() and (value[-1] == 2).all()


def test_single_images_are_batched_in_order():
    single = [
        {
            "images": [torch.full((1, 2, 3, 3), n, dtype=torch.uint8)] * 2,
            "label": [n],
            "size": [n],
            "name": [n],
        }
        for n in range(5)
    ]
    whole = list(rebatch(single, 2, pinned=False))
    assert [batch["name"] for batch in whole] == [[0, 1], [2, 3], [4]]
    for batch in whole:
        assert batch["label"] == batch["size"] == batch["name"]
        for scale in batch["images"]:
            assert scale.shape[1:] == (2, 3, 3) and scale[:, 0, 0, 0].tolist() == batch["name"]
