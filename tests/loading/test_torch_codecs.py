"""Decoding in torch is decoding in numpy."""

import numpy as np
import pytest
import torch

from dmkd.loading.torch_codecs import LabelDecoder
from dmkd.stores import parse_codec


def encoded(name, num_classes=300, num_features=20):
    rng = np.random.default_rng(0)
    features = rng.exponential(size=(128, num_features)).astype(np.float32)
    weight = rng.normal(size=(num_classes, num_features)).astype(np.float32)
    bias = rng.normal(size=num_classes).astype(np.float32)
    logits = features @ weight.T + bias
    codec = parse_codec(name)
    coder = codec.bind(num_classes, codec.fit(num_classes, sample=logits[64:], weight=weight, bias=bias))
    values = features if codec.input == "features" else logits
    return coder, coder.encode(values[:64].reshape(16, 4, -1))


# Every test runs on the CPU; on a GPU as well where there is one.
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("name", ["float16", "uint8", "features", "features:5", "klt:0.5", "topk:10", "topk:300"])
def test_torch_decodes_as_numpy_does(name, temperature, device):
    coder, arrays = encoded(name)
    rows, views = np.array([3, 0, 15, 3]), np.array([1, 0, 3, 2])
    gathered = {part: torch.from_numpy(array[rows, views]).to(device) for part, array in arrays.items()}
    decoded = LabelDecoder(coder, device).decode(gathered, temperature)
    assert decoded.dtype == torch.float32 and decoded.shape == (4, 300) and decoded.device.type == device
    np.testing.assert_allclose(decoded.cpu(), coder.decode(arrays, temperature)[rows, views], rtol=1e-4, atol=2e-4)


def test_the_sparse_form_is_numpys():
    coder, arrays = encoded("topk:10")
    gathered = {part: torch.from_numpy(array[:, 0]) for part, array in arrays.items()}
    decoder = LabelDecoder(coder)
    for ours, theirs in zip(decoder.sparse(gathered), coder.sparse(arrays), strict=True):
        np.testing.assert_array_equal(ours, theirs[:, 0])
    np.testing.assert_allclose(decoder.tail_log_mass(gathered, 4.0), coder.tail_log_mass(arrays, 4.0)[:, 0], atol=1e-5)


def test_features_come_back_for_feature_distillation():
    coder, arrays = encoded("features")
    gathered = {part: torch.from_numpy(array[:, 2]) for part, array in arrays.items()}
    np.testing.assert_allclose(
        LabelDecoder(coder).decode_features(gathered), coder.decode_features(arrays)[:, 2], atol=1e-6
    )
