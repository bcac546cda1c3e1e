"""What a batch's arrays become, without a loader."""

from copy import copy

import numpy as np
import pytest
import torch
from conftest import filled_store

from dmkd.loading.decoding import BatchDecoder
from dmkd.loading.torch_codecs import LabelDecoder
from dmkd.stores import UsageError
from dmkd.views.render import render


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled_store(tmp_path_factory.mktemp("decoding") / "s.zarr")


def decoder(store, *components):
    view_set = copy(store.views["views"])  # the store keeps its own
    if components:
        view_set.components = (*view_set.components, *components)
    decoders = {"teacher": LabelDecoder(store.labels["teacher"].coder)}
    return BatchDecoder(view_set, decoders, {"teacher": 1.0}, "cpu")


def test_arrays_of_the_store_become_pixels_and_logits(store):
    ids = np.array([3, 50, 4])
    images, views = torch.from_numpy(store.images[ids]), store.views["views"][ids][:, 1]
    pixels = decoder(store).pixels(images, views, size=4)
    components = store.views["views"].components
    assert torch.equal(pixels, render(images, views, size=4, interpolation="bilinear", components=components))
    arrays = {part: torch.from_numpy(rows[:, 1]) for part, rows in store.labels["teacher"].encoded(ids).items()}
    np.testing.assert_array_equal(
        decoder(store).logits({"teacher": arrays}), store.labels["teacher"].logits(ids, view=1)
    )
    with pytest.raises(UsageError, match="without labels"):
        decoder(store).logits({})


def test_two_label_sets_are_mixed_by_their_weights():
    class Fixed:
        def __init__(self, *probabilities):
            self.logits = torch.tensor([probabilities]).log()

        def decode(self, arrays, temperature):
            return self.logits * temperature

    mixed = BatchDecoder(None, {"a": Fixed(0.9, 0.1), "b": Fixed(0.1, 0.9)}, {"a": 0.75, "b": 0.25}, "cpu")
    found = torch.softmax(mixed.logits({"a": {}, "b": {}}, temperature=5.0) / 5, 1)
    torch.testing.assert_close(found, torch.tensor([[0.7, 0.3]]))


@pytest.mark.parametrize(
    ("components", "mix", "share"),
    [
        ((), [], 1.0),
        (("partner", "weight"), [1, 0.375], 0.375),
        (("partner", "mix_top", "mix_left", "mix_height", "mix_width"), [1, 0.5, 0, 0.5, 0.25], 0.875),
    ],
)
def test_the_share_of_a_view_that_is_the_images_own(store, components, mix, share):
    views = np.array([[0, 0, 1, 1, 0, *mix]], np.float32)
    assert decoder(store, *components).own_share(views).tolist() == [share]
