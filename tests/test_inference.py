"""Multi-pass prediction against its definition, written here pass by pass, in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.deeplab_multi import DeeplabMulti
from utils.inference import predict, predict_all, predict_weightings, scaled_sizes
from utils.pictures import HEAT_TABLE, heat_levels
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
@pytest.mark.parametrize("weights", WEIGHTINGS)
def test_prediction_is_the_sum_of_four_passes(network, images, weights, mirrored_uncertainty):
    options = dict(weights=weights, mirrored_uncertainty=mirrored_uncertainty)
    results = predict(network, images, SIZES, **options)
    assert len(results) == 2
    for index, (size, result) in enumerate(zip(SIZES, results, strict=True)):
        label, score, kl = by_definition(network, images, index, size, **options)
        assert result.label.dtype == torch.uint8 and result.label.shape == size
        assert torch.equal(result.label.long(), label)
        assert (result.score - score).abs().max() < 1e-12
        assert (result.uncertainty - kl).abs().max() < 1e-12
        assert len(label.unique()) > 2 and score.max() - score.min() > 0.2 and kl.max() > 0.1


def test_published_weights_and_unmirrored_uncertainty_are_the_defaults(network, images):
    result = predict(network, images, SIZES)[0]
    label, score, kl = by_definition(network, images, 0, SIZES[0], PUBLISHED, mirrored_uncertainty=False)
    assert torch.equal(result.label.long(), label)
    assert (result.score - score).abs().max() < 1e-12 and (result.uncertainty - kl).abs().max() < 1e-12


def test_each_choice_of_weights_gives_another_prediction(network, images):
    scores = [
        predict(network, images, SIZES, weights=w)[0].score for w in (PUBLISHED, (1, 0), (0, 1), (1, 1))
    ]
    for index, score in enumerate(scores):
        assert all((score - other).abs().max() > 0.01 for other in scores[:index])


def count_passes(network):
    """Sizes of what the network is shown from now on, in a list that grows."""
    shown = []
    network.register_forward_pre_hook(lambda _, args: shown.append(args[0].shape[2:]))
    return shown


@pytest.mark.parametrize("mirrored_uncertainty", [False, True])
def test_several_weightings_are_predicted_as_each_alone(network, images, mirrored_uncertainty):
    options = dict(mirrored_uncertainty=mirrored_uncertainty)
    results = predict_weightings(network, images, SIZES, WEIGHTINGS, **options)
    assert [len(of_image) for of_image in results] == [len(WEIGHTINGS)] * 2
    for index, (size, of_image) in enumerate(zip(SIZES, results, strict=True)):
        for weights, result in zip(WEIGHTINGS, of_image, strict=True):
            label, score, kl = by_definition(network, images, index, size, weights, **options)
            assert result.label.dtype == torch.uint8 and torch.equal(result.label.long(), label)
            assert (result.score - score).abs().max() < 1e-12
            assert (result.uncertainty - kl).abs().max() < 1e-12


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

    single = list(predict_all(network, batches, device, mirrored_uncertainty=True))
    several = list(predict_all(network, batches, device, weightings=WEIGHTINGS, mirrored_uncertainty=True))
    for results in (single, several):
        assert [name for name, _, _ in results] == ["a.png", "b.png"] * 2
        assert [label.unique().item() for _, label, _ in results] == [0, 1] * 2
    alone = [([scale[i : i + 1] for scale in shown], SIZES[i : i + 1]) for i in range(2)]
    options = dict(weightings=WEIGHTINGS, mirrored_uncertainty=True)
    expected = [predict_weightings(network, *image, **options)[0] for image in alone] * 2
    for (_, _, one), (_, _, many), of_image in zip(single, several, expected, strict=True):
        assert isinstance(many, list) and len(many) == len(WEIGHTINGS)
        for prediction, right in zip([*many, one], [*of_image, of_image[-1]], strict=True):
            assert torch.equal(prediction.label, right.label)
            for maps in zip(prediction[1:], right[1:], strict=True):
                torch.testing.assert_close(*maps, rtol=0, atol=1e-12)


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


def test_an_image_is_predicted_alike_alone_and_in_a_batch(network, images):
    together = predict(network, images, SIZES)[1]
    alone = predict(network, [batch[1:] for batch in images], SIZES[1:])[0]
    assert torch.equal(together.label, alone.label)
    assert (together.score - alone.score).abs().max() < 1e-12


def test_one_scale_scores_by_its_two_passes(network, images):
    (result,) = predict(network, [images[0][:1]], [(65, 97)])
    assert result.score.min() > 1 / 7 and result.score.max() <= 1


def test_prediction_leaves_nothing_to_differentiate(network, images):
    assert not predict(network, images, SIZES)[0].score.requires_grad


def test_scaled_sizes_are_those_of_the_papers():
    assert scaled_sizes((512, 1024), (1, 1.25)) == [(512, 1024), (640, 1280)]
    assert scaled_sizes((960, 1280), (1, 0.8)) == [(960, 1280), (768, 1024)]


def test_heat_map_shows_log_of_1_plus_10_kl_over_its_maximum():
    kl = torch.tensor([[0.0, 0.05], [0.3, 2.0]])
    steps = (255 * np.log(1 + 10 * kl.numpy()) / np.log(21)).astype(int)
    assert heat_levels(kl).dtype == torch.uint8 and np.array_equal(heat_levels(kl), steps)
    assert kl[1, 1] == 2, "what it is given stays"
    brightness = HEAT_TABLE @ (0.299, 0.587, 0.114)
    assert np.all(np.diff(brightness) >= 0) and np.ptp(brightness) > 150, "more uncertain is brighter"


def test_heat_map_of_classifiers_that_agree_everywhere_is_dark():
    assert not heat_levels(torch.zeros(4, 6)).any()
