"""Monte-Carlo dropout against T passes of the whole network; the uncertainty gap against NumPy."""

import math

import numpy as np
import pytest
import torch

from model.deeplab_multi import DeeplabMulti
from utils.losses import kl_divergence
from utils.uncertainty import UncertaintyGap, active_dropout, classifier_divergence, dropout_divergence

pytestmark = pytest.mark.usefixtures("float64", "one_thread")


@pytest.fixture
def network():
    """Batch normalisation in the classifiers too, so that touching any of it would show."""
    torch.manual_seed(0)
    network = DeeplabMulti(7, norm_style="bn", droprate=0.3, arch="mini")
    for classifier in (network.layer5, network.layer6):
        torch.nn.init.normal_(classifier.head[1].weight, std=0.3)
    return network.eval()


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(2, 3, 33, 49) * 50


def mutual_information(probabilities):
    """H(mean p) - mean H(p) of the passes' probabilities (T, N, C, h, w), as the papers word it."""
    mean = probabilities.mean(0)
    entropy = -(probabilities * probabilities.log()).sum(2)
    return -(mean * mean.log()).sum(1) - entropy.mean(0)


@torch.no_grad()
def whole_passes(network, images, passes):
    """Probabilities of the primary classifier in passes of the whole network under its own dropout."""
    with active_dropout(network):
        return torch.stack([network(images)[1].softmax(1) for _ in range(passes)])


def test_dropout_divergence_is_that_of_whole_passes_with_the_same_channels_dropped(network, images):
    passes, rate, seed = 5, 0.4, 11
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        masks = torch.nn.functional.dropout(torch.ones(passes, 64), rate)
    turn = iter(masks)
    hook = network.layer6.head[0].register_forward_hook(lambda _, args, out: out * next(turn)[:, None, None])
    with torch.no_grad():
        probabilities = torch.stack([network(images)[1].softmax(1) for _ in range(passes)])
    hook.remove()

    divergence = dropout_divergence(network, images, passes, rate, seed)
    assert divergence.shape == (2, 5, 7)
    assert (divergence - mutual_information(probabilities)).abs().max() < 1e-12
    assert divergence.min() >= 0 and 0.1 < divergence.max() <= math.log(passes)


def test_dropout_divergence_tends_to_that_of_the_networks_own_dropout(network, images):
    passes, images = 200, images[:1]
    expected = mutual_information(whole_passes(network, images, passes)).mean((1, 2))
    own_rate = dropout_divergence(network, images, passes).mean((1, 2))
    assert own_rate.tolist() == pytest.approx(expected.tolist(), rel=0.1)
    higher = dropout_divergence(network, images, passes, rate=0.5).mean((1, 2))
    assert (higher > 1.3 * expected).all()


def test_without_dropped_channels_or_with_one_pass_there_is_no_divergence(network, images):
    for options in (dict(rate=0.0), dict(passes=1)):
        divergence = dropout_divergence(network, images, **options)
        assert divergence.min() >= 0 and divergence.max() < 1e-14
    with pytest.raises(ValueError, match="passes is 0"):
        dropout_divergence(network, images, passes=0)


def test_the_seed_alone_decides_which_channels_drop(network, images):
    first = dropout_divergence(network, images, seed=1)
    state = torch.get_rng_state()
    torch.rand(10)
    again = dropout_divergence(network, images, seed=1)
    torch.set_rng_state(state)
    assert torch.equal(again, first)
    assert (dropout_divergence(network, images, seed=2) - first).abs().max() > 0.01
    assert torch.equal(torch.get_rng_state(), state), "torch's own random numbers go on undisturbed"


def test_an_image_has_one_divergence_alone_and_in_a_batch(network, images):
    together = dropout_divergence(network, images)
    alone = dropout_divergence(network, images[1:])
    assert (together[1:] - alone).abs().max() < 1e-12


def test_measuring_leaves_the_network_as_it_was(network, images):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    dropout_divergence(network, images, rate=0.9)
    assert not any(module.training for module in network.modules())
    assert [c.head[0].p for c in (network.layer5, network.layer6)] == [0.3, 0.3]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.layer6.head._forward_pre_hooks


@pytest.mark.parametrize("rate, inside", [(None, [0.3, 0.6]), (0.5, [0.5, 0.5]), (0.0, [0.0, 0.0])])
def test_active_dropout_touches_dropout_alone_and_restores_it(network, rate, inside):
    layers = network.layer5.head[0], network.layer6.head[0]
    layers[0].train()  # one layer trains already and is to go on
    layers[1].p = 0.6
    with pytest.raises(RuntimeError, match="midway"), active_dropout(network, rate):
        assert [layer.p for layer in layers] == inside
        assert [module for module in network.modules() if module.training] == list(layers)
        raise RuntimeError("midway")
    assert [(layer.training, layer.p) for layer in layers] == [(True, 0.3), (False, 0.6)]


def test_a_rate_that_is_none_is_refused_and_not_kept(network, images):
    with pytest.raises(ValueError, match="1.5"):
        dropout_divergence(network, images, rate=1.5)
    assert network.layer6.head[0].p == 0.3 and not network.layer6.head[0].training


def test_classifier_divergence_is_of_the_primary_to_the_auxiliary_one():
    torch.manual_seed(0)
    z1, z2 = torch.randn(2, 2, 5, 3, 4) * 3
    p1, p2 = z1.softmax(1), z2.softmax(1)
    expected = (p2 * (p2 / p1).log()).sum(1)
    assert (classifier_divergence(z1, z2) - expected).abs().max() < 1e-12
    assert (kl_divergence(p1.log(), p2.log()) - expected).abs().max() > 0.1, "the other direction is another"


def gap_by_definition(labels, predictions, uncertainties, classes):
    """Mean exp(-D) over right and over wrong pixels of all images."""
    label, prediction, d = (
        np.concatenate([m.ravel() for m in maps]) for maps in (labels, predictions, uncertainties)
    )
    known = np.isin(label, np.arange(classes))
    right, wrong = known & (label == prediction), known & (label != prediction)
    return np.exp(-d[right]).mean(), np.exp(-d[wrong]).mean()


@pytest.mark.parametrize("dtype, outside", [(np.uint8, (5, 255)), (np.int64, (-1, 5, 255))])
def test_gap_is_over_the_pixels_of_the_whole_set(dtype, outside):
    rng = np.random.default_rng(5)
    sizes = [(20, 30), (7, 11), (40, 16)]
    labels = [rng.choice([*range(5), *outside], size).astype(dtype) for size in sizes]
    kept = [rng.random(size) < share for size, share in zip(sizes, (0.9, 0.1, 0.5), strict=True)]
    predictions = [
        np.where(keep, label, rng.integers(0, 5, label.shape)).astype(np.uint8)  # right where ignored, too
        for keep, label in zip(kept, labels, strict=True)
    ]
    uncertainties = [rng.exponential(1 + 2 * ~keep) * k for k, keep in enumerate(kept, 1)]

    gap = UncertaintyGap(5)
    for image in zip(labels, predictions, uncertainties, strict=True):
        gap.add(*map(torch.from_numpy, image))
    right, wrong = gap_by_definition(labels, predictions, uncertainties, 5)
    assert gap.means() == pytest.approx((right, wrong), abs=1e-12)
    assert gap.value() == pytest.approx(right - wrong, abs=1e-12) and gap.value() > 0.1


def test_gap_of_many_float32_pixels_is_summed_in_float64():
    label, uncertainty = torch.zeros(2048, 2048, dtype=torch.uint8), torch.full((2048, 2048), 0.1).float()
    gap = UncertaintyGap(2)
    for prediction in (label, label + 1, label):
        gap.add(label, prediction, uncertainty)
    right, wrong = gap.means()
    expected = math.exp(-float(uncertainty[0, 0]))
    assert right == pytest.approx(expected, rel=1e-13) and wrong == pytest.approx(expected, rel=1e-13)


def test_gap_without_right_or_wrong_pixels_is_nan():
    gap, uncertainty = UncertaintyGap(3), torch.tensor([[0.5, 1.0]])
    assert np.isnan(gap.means()).all() and math.isnan(gap.value())
    gap.add(torch.tensor([[255, 3]]), torch.tensor([[255, 3]]), uncertainty)
    assert np.isnan(gap.means()).all() and math.isnan(gap.value())
    gap.add(torch.tensor([[1, 255]]), torch.tensor([[1, 0]]), uncertainty)
    right, wrong = gap.means()
    assert right == pytest.approx(math.exp(-0.5), abs=1e-15)
    assert math.isnan(wrong) and math.isnan(gap.value())


def test_adding_an_image_never_waits_for_the_device():
    """On the meta device, which holds no numbers, reading any raises an error."""
    gap = UncertaintyGap(3)
    label = torch.empty(4, 6, dtype=torch.uint8, device="meta")
    for _ in range(2):
        gap.add(label, label, torch.empty(4, 6, device="meta"))
    with pytest.raises(RuntimeError):
        gap.means()
