"""The contract of a label codec: a class of tests that a subclass runs on the codecs that its fixture ``name`` gives."""

import json

import numpy as np
import pytest
import torch
from absent_gpu import absent_gpu

from dmkd.loading.torch_codecs import LabelDecoder
from dmkd.runtime.accelerators import upload
from dmkd.stores import UsageError, parse_codec
from dmkd.stores.codecs import codec_from_json
from dmkd.stores.codecs.report import stored_bytes

NUM_FEATURES = 6


def teacher(num_rows, num_classes, num_features=NUM_FEATURES, seed=0, scale=2.0):
    """Features float32 (m, d), weight (C, d) and logits (m, C) with a standard deviation of about ``scale``."""
    rng = np.random.default_rng(seed)
    features = rng.exponential(size=(num_rows, num_features)).astype(np.float32)
    weight = (rng.normal(size=(num_classes, num_features)) * scale / np.sqrt(num_features)).astype(np.float32)
    return features, weight, features @ weight.T


def fitted(name, num_classes, num_features=NUM_FEATURES, with_head=True):
    codec = parse_codec(name)
    _, weight, sample = teacher(64, num_classes, num_features, seed=1)
    head = weight if with_head or codec.input == "features" else None
    return codec.bind(num_classes, codec.fit(num_classes, sample=sample, weight=head))


def values_for(name, num_images, num_views, num_classes, num_features=NUM_FEATURES):
    """What the codec encodes, and the exact logits of the same teacher that :func:`fitted` knows."""
    weight = teacher(64, num_classes, num_features, seed=1)[1]
    features = teacher(num_images * num_views, num_classes, num_features, seed=2)[0].reshape(num_images, num_views, -1)
    logits = features @ weight.T
    return (features if parse_codec(name).input == "features" else logits), logits


class CodecContract:
    @pytest.fixture
    def name(self):
        raise NotImplementedError("a fixture whose parameters are the codecs, as users write them")

    def test_configuration_round_trips_through_the_store_and_through_users(self, name):
        codec = parse_codec(name)
        assert codec_from_json(json.loads(json.dumps(codec.to_json()))) == codec
        assert parse_codec(str(codec)) == codec

    def test_what_help_and_reports_name_is_taken(self, name):
        codec = parse_codec(name)
        assert codec.help and not codec.help.endswith(".")
        for text in (codec.example, *codec.usual):
            assert type(parse_codec(text)) is type(codec)

    @pytest.mark.parametrize("num_classes", [2, 10, 1000])
    @pytest.mark.parametrize("num_views", [1, 3])
    @pytest.mark.parametrize("num_images", [1, 5])
    def test_encoded_arrays_are_what_the_coder_says_they_are(self, name, num_images, num_views, num_classes):
        coder = fitted(name, num_classes)
        values, logits = values_for(name, num_images, num_views, num_classes)
        encoded, specs = coder.encode(values), coder.arrays(num_views)
        assert list(encoded) == list(specs)
        for part, spec in specs.items():
            assert encoded[part].shape == (num_images, *spec.shape) and encoded[part].dtype == spec.dtype
            assert spec.shape[0] == num_views and spec.dims[0] == "view"
            assert encoded[part].dtype.kind != "f" or np.isfinite(encoded[part]).all()
        decoded = coder.decode(encoded, 4.0)
        assert decoded.shape == logits.shape and decoded.dtype == np.float32 and np.isfinite(decoded).all()

    def test_the_coder_has_the_constants_of_the_fit(self, name):
        codec, (_, weight, sample) = parse_codec(name), teacher(64, 10, seed=1)
        constants = codec.fit(10, sample=sample, weight=weight)
        assert set(constants) == set(codec.constants)
        bound = codec.bind(10, constants).constants
        assert all(bound[part] is value for part, value in constants.items()) and len(bound) == len(constants)

    def test_nothing_is_larger_than_was_planned(self, name):
        codec, coder = parse_codec(name), fitted(name, 10)
        largest = codec.largest_constants(10, NUM_FEATURES)
        assert largest.keys() == coder.constants.keys()
        assert all(largest[part].nbytes >= value.nbytes for part, value in coder.constants.items())
        encoded = coder.encode(values_for(name, 5, 3, 10)[0])
        planned = codec.bind(10, largest).arrays(3)
        assert planned.keys() == encoded.keys()
        for part, rows in encoded.items():
            share, raw = codec.expected_share(part, planned[part]), 5 * np.prod(planned[part].shape) * rows.itemsize
            size = stored_bytes({part: coder.arrays(3)[part]}, {part: rows}) - 4  # crc32c
            assert share.exactness in ("exact", "at most", "about") and 0 <= share.of_raw <= 1
            assert share.exactness != "exact" or size == raw
            assert share.exactness != "at most" or size <= raw + 64  # what can't be compressed grows by a header

    def test_a_view_decodes_alone_as_it_does_among_others(self, name):
        coder = fitted(name, 10)
        encoded = coder.encode(values_for(name, 5, 3, 10)[0])
        among_others = coder.decode(encoded)[[4, 1], [2, 0]]
        alone = {part: rows[[4, 1], [2, 0]] for part, rows in encoded.items()}
        np.testing.assert_allclose(coder.decode(alone), among_others, rtol=1e-5, atol=1e-5)
        alone = {part: rows[:, None] for part, rows in alone.items()}
        np.testing.assert_allclose(coder.decode(alone)[:, 0], among_others, rtol=1e-5, atol=1e-5)

    def test_arrays_survive_the_chunk(self, name, tmp_path):
        from dmkd.stores.trees.zarr_tree import ZarrTree

        coder = fitted(name, 10)
        tree = ZarrTree(str(tmp_path / "s.zarr"))
        tree.create_root()
        encoded = coder.encode(values_for(name, 5, 3, 10)[0])
        for part, spec in coder.arrays(3).items():
            tree.create_array(part, spec, 8, 5)
            tree.write_block(part, 0, encoded[part])
            np.testing.assert_array_equal(tree.read_block(part, 0), encoded[part])

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_what_can_not_be_held_is_refused(self, name, bad):
        values = values_for(name, 2, 3, 4)[0].copy()
        values[1, 2, 3] = bad
        with pytest.raises(UsageError):
            fitted(name, 4).encode(values)

    def test_wrong_shapes_and_dtypes_are_refused(self, name):
        coder, values = fitted(name, 4), values_for(name, 2, 3, 4)[0]
        for wrong in (values[..., :-1], values[0], values.astype(np.float64)):
            with pytest.raises(UsageError, match="float32 of shape"):
                coder.encode(wrong)

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_torch_decodes_as_numpy_does(self, name, temperature):
        coder = fitted(name, 10)
        encoded = coder.encode(values_for(name, 5, 3, 10)[0])
        decoded = LabelDecoder(coder).decode(
            {part: torch.from_numpy(rows[:, 1]) for part, rows in encoded.items()}, temperature
        )
        assert decoded.dtype == torch.float32
        expected = coder.decode(encoded, temperature)[:, 1]
        np.testing.assert_allclose(decoded.numpy(), expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("temperature", [0.5, 4.0])
    def test_mixed_precision_of_the_student_does_not_round_what_the_teacher_said(self, name, temperature):
        coder = fitted(name, 10)
        encoded = coder.encode(values_for(name, 64, 1, 10)[0])
        arrays, decoder = {part: torch.from_numpy(rows[:, 0]) for part, rows in encoded.items()}, LabelDecoder(coder)

        def decoded():
            found = [decoder.decode(arrays, temperature)]
            if decoder.is_sparse:
                found += [decoder.sparse(arrays)[1], decoder.tail_log_mass(arrays, temperature)]
            return found if parse_codec(name).input == "logits" else [*found, decoder.decode_features(arrays)]

        with torch.autocast("cpu", torch.bfloat16):
            rounded = decoded()
        for here, there in zip(decoded(), rounded, strict=True):
            assert there.dtype == torch.float32 and torch.equal(here, there)

    @pytest.mark.parametrize("temperature", [0.5, 4.0])
    def test_decoding_does_not_wait_for_the_device(self, name, temperature):
        coder = fitted(name, 10)
        encoded = coder.encode(values_for(name, 5, 3, 10)[0])
        with absent_gpu():
            decoder = LabelDecoder(coder, "cuda")
            arrays = {part: upload(rows[:, 1], "cuda") for part, rows in encoded.items()}
            assert decoder.decode(arrays, temperature).shape == (5, 10)
            if decoder.is_sparse:
                ids, logits = decoder.sparse(arrays)
                assert ids.shape == logits.shape
                assert decoder.tail_log_mass(arrays, temperature).shape == (5,)

    def test_a_form_that_it_lacks_is_refused(self, name):
        decoder = LabelDecoder(fitted(name, 10))
        if not decoder.is_sparse:
            with pytest.raises(TypeError, match="no sparse form"):
                decoder.sparse({})
            with pytest.raises(TypeError, match="no sparse form"):
                decoder.tail_log_mass({})
        if parse_codec(name).input == "logits":
            with pytest.raises(TypeError, match="holds no features"):
                decoder.decode_features({})
