import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from absent_gpu import absent_gpu, to_absent_gpu
from conftest import filled_store
from PIL import Image

from dmkd.classifiers.class_folders import list_image_folder
from dmkd.classifiers.evaluate import Evaluation, Predictions, evaluate, predict
from dmkd.classifiers.evaluation_data import decoding_threads, evaluation_batches, list_evaluation
from dmkd.classifiers.kept_images import KeptImages
from dmkd.classifiers.load import load_classifier
from dmkd.stores import UsageError


class Fixed:
    """A classifier that says what the first pixel of the red channel says: a known answer."""

    def __init__(self, num_classes=10):
        self.num_classes, self.source, self.class_names = num_classes, "fixed", None
        self.model = torch.nn.Linear(1, 1)

    def logits(self, pixels):
        return torch.nn.functional.one_hot(pixels[:, 0, 0, 0].long(), self.num_classes).float()


def batch(said, true):
    pixels = torch.tensor(said, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return pixels, np.array(true)


def test_counts_against_numbers_worked_out_by_hand():
    result = evaluate(Fixed(), [batch([0, 1, 1], [0, 1, 2]), batch([2], [2])])
    assert result.num_images == 4 and result.top1 == 0.75
    np.testing.assert_array_equal(result.confusion[2], [0, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(result.per_class[:3], [1, 1, 0.5])
    assert np.isnan(result.per_class[3])
    assert result.to_json([str(i) for i in range(10)])["per_class"]["3"] is None


def test_top5_counts_what_is_among_the_five_likeliest():
    class Ramp(Fixed):
        def logits(self, pixels):
            return torch.arange(10.0).expand(len(pixels), 10)  # 9 is likeliest, 5 the fifth

    result = evaluate(Ramp(), [batch([0, 0, 0], [9, 5, 4])])
    assert result.top1 == pytest.approx(1 / 3) and result.top5 == pytest.approx(2 / 3)
    few = evaluate(Fixed(num_classes=3), [batch([0, 1], [1, 1])])
    assert few.top5 == 1.0


def predictions(true, said, confidence):
    return Predictions(np.array(true), np.array(said)[:, None], np.array(confidence, np.float32))


def test_calibration_error_against_numbers_worked_out_by_hand():
    """.95 and .97 are in (14/15, 1], one right of two, off by |0.5 - 0.96|; .5 in (7/15, 8/15], right, off by .5."""
    found = predictions([0, 1, 2], [0, 0, 2], [0.95, 0.97, 0.5])
    assert found.calibration_error == pytest.approx((2 * 0.46 + 1 * 0.5) / 3)
    assert predictions([0, 1], [0, 1], [1.0, 1.0]).calibration_error == 0
    assert predictions([0, 1], [1, 0], [1.0, 1.0]).calibration_error == 1


def test_confidence_is_the_probability_of_the_likeliest_class():
    found = predict(Fixed(), [batch([3], [3]), batch([1], [2])])
    np.testing.assert_allclose(found.confidence, np.e / (np.e + 9), rtol=1e-6)
    assert found.right.tolist() == [True, False] and found.top.shape == (2, 5)


def test_halves_share_each_class_and_hold_each_image_once():
    found = predictions([1, 0, 1, 1, 0, 2], [0] * 6, [1.0] * 6)
    choose, report = found.halves()
    assert choose.tolist() == [True, True, False, True, False, True] and (choose ^ report).all()


def test_evaluation_of_nothing_known_is_no_crash():
    assert Evaluation(np.eye(2, dtype=np.int64), np.ones(2, np.int64)).top1 == 1.0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_is_waited_for_once_after_all_batches_are_queued(tiny_teacher, precision):
    waits, before = [], []

    def batches():
        for _ in range(3):
            yield torch.zeros(2, 3, 32, 32, dtype=torch.uint8), np.array([1, 2])
            before.extend(waits)

    with absent_gpu(waits):
        classifier = load_classifier(str(tiny_teacher), precision=precision)
        to_absent_gpu(classifier.model)
        assert evaluate(classifier, batches()).num_images == 6
    assert not before
    assert waits == ["A copy of (6, 6) from cuda:0 to cpu is waited for."]


def save_images(folder, names, size=(40, 30), count=2):
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", size, (number * 20, 0, 0)).save(folder / name / f"{i}.png")


def test_class_folders_are_matched_by_name_by_number_or_by_order(tmp_path, tiny_teacher):
    classifier = load_classifier(str(tiny_teacher))
    save_images(tmp_path / "numbers", ["7", "3"])
    _, ids, told = list_image_folder(tmp_path / "numbers", classifier)
    assert sorted(set(ids.tolist())) == [3, 7]
    assert told == [f"{tmp_path / 'numbers'} has no images of 8 of the 10 classes (0, 1, 2, …)."]
    names = ["tench, Tinca tinca", "goldfish", *"abcdefgh"]
    save_images(tmp_path / "names", ["goldfish", "tench"])
    files, ids, _ = list_image_folder(tmp_path / "names", replace(classifier, class_names=names))
    assert {(f.parent.name, i) for f, i in zip(files, ids.tolist(), strict=True)} == {("goldfish", 1), ("tench", 0)}
    save_images(tmp_path / "order", [f"n{i:03}" for i in range(10)])
    files, ids, told = list_image_folder(tmp_path / "order", classifier)
    assert all(f.parent.name == f"n{i:03}" for f, i in zip(files, ids.tolist(), strict=True)) and not told


def test_folders_that_can_not_be_the_classes_are_refused(tmp_path, tiny_teacher):
    classifier = load_classifier(str(tiny_teacher))
    save_images(tmp_path / "few", ["x", "y"])
    with pytest.raises(UsageError, match="has 2 class folders and .* knows 10 classes"):
        evaluation_batches(str(tmp_path / "few"), classifier)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no class folders"):
        evaluation_batches(str(tmp_path / "empty"), classifier)
    (tmp_path / "hollow" / "3").mkdir(parents=True)
    with pytest.raises(UsageError, match="hold no images"):
        evaluation_batches(str(tmp_path / "hollow"), classifier)
    with pytest.raises(UsageError, match="nothing to evaluate on"):
        evaluation_batches(str(tmp_path / "missing"), classifier)


def test_wordnet_ids_are_imagenets_to_a_nameless_classifier_of_a_thousand(tmp_path, tiny_teacher):
    thousand = replace(load_classifier(str(tiny_teacher)), num_classes=1000, class_names=None)
    save_images(tmp_path / "some", ["n02012849", "n03126707", "n99999999"])
    _, ids, told = list_image_folder(tmp_path / "some", thousand)
    assert ids.tolist() == [134, 134, 517, 517] and told[0].startswith("1 of 3 folders of ") and len(told) == 2
    save_images(tmp_path / "names", ["golden_retriever", "Tench"])
    assert sorted(set(list_image_folder(tmp_path / "names", thousand)[1].tolist())) == [0, 207]


def test_folders_of_some_names_are_not_counted_in_order(tmp_path, tiny_teacher):
    classifier = replace(load_classifier(str(tiny_teacher)), class_names=[f"c{i}" for i in range(10)])
    save_images(tmp_path / "shifted", [f"c{i}" for i in range(1, 11)])  # as many as the classes
    _, ids, told = list_image_folder(tmp_path / "shifted", classifier)
    assert sorted(set(ids.tolist())) == list(range(1, 10)) and told[0].startswith("1 of 10 folders")
    save_images(tmp_path / "one", ["c0", *(f"d{i}" for i in range(1, 10))])  # in order, one of them called otherwise
    assert sorted(set(list_image_folder(tmp_path / "one", classifier)[1].tolist())) == list(range(10))
    save_images(tmp_path / "beyond", ["3", "10"])
    with pytest.raises(UsageError, match="has 2 class folders and .* knows 10 classes"):
        list_image_folder(tmp_path / "beyond", classifier)


@pytest.mark.parametrize("source", ["digits", "store"])
def test_images_of_classes_that_a_classifier_does_not_know_are_left_out(tmp_path, tiny_teacher, source):
    whole = load_classifier(str(tiny_teacher))
    if source == "store":
        source = filled_store(tmp_path / "s.zarr", num_images=40, image_shape=(32, 32, 3)).path
    true = np.concatenate([ids for _, ids in evaluation_batches(source, whole)])
    some = whole.only([7, 3])
    listed = list_evaluation(source, some)
    assert listed.notices == [f"8 of the 10 classes of {source} are other ones, and their images are left out."]
    batches = list(listed.read(range(len(listed.sizes))))
    assert [len(ids) for _, ids in batches] == list(listed.sizes)
    wanted = true[np.isin(true, [7, 3])]
    np.testing.assert_array_equal(np.array([7, 3])[np.concatenate([ids for _, ids in batches])], wanted)
    pixels = torch.cat([pixels for pixels, _ in evaluation_batches(source, whole)])[np.isin(true, [7, 3])]
    assert torch.equal(torch.cat([pixels for pixels, _ in batches]), pixels)


def test_images_of_every_size_are_seen_as_the_classifier_evaluates(tmp_path, tiny_teacher):
    classifier = load_classifier(str(tiny_teacher))
    save_images(tmp_path, ["1"], size=(64, 48))
    save_images(tmp_path, ["2"], size=(20, 33))
    ((pixels, ids),) = evaluation_batches(str(tmp_path), classifier)
    assert pixels.shape == (4, 3, 32, 32) and pixels.dtype == torch.uint8
    assert ids.tolist() == [1, 1, 2, 2]


def test_a_broken_image_is_named(tmp_path, tiny_teacher):
    save_images(tmp_path, ["1"])
    (tmp_path / "1" / "broken.jpg").write_bytes(b"no jpeg")
    with pytest.raises(UsageError, match=r"broken\.jpg can't be read"):
        list(evaluation_batches(str(tmp_path), load_classifier(str(tiny_teacher))))


def broken_images():
    """Files that Pillow's decoders refuse in words of their own: ValueError, SyntaxError, struct.error, OSError ..."""
    whole = io.BytesIO()
    Image.new("RGB", (40, 30)).save(whole, "PNG")
    png = whole.getvalue()
    return {
        "cut.png": png[: len(png) // 2],
        "damaged.png": png[:20] + b"\0\0\0\0" + png[24:],
        "lying.ppm": b"P6 ten ten 255\n",
        "bomb.png": png[:16] + (60_000).to_bytes(4, "big") * 2 + png[24:],
    }


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", broken_images())
def test_whatever_is_wrong_with_an_image_it_is_named_in_one_sentence(tmp_path, tiny_teacher, name, workers):
    save_images(tmp_path, ["1"])
    (tmp_path / "1" / name).write_bytes(broken_images()[name])
    with pytest.raises(UsageError) as refused:
        list(evaluation_batches(str(tmp_path), load_classifier(str(tiny_teacher)), workers=workers))
    told = str(refused.value)
    assert told.startswith(f"{tmp_path}/1/{name} can't be read as an image: ") and "\n" not in told, told


def test_a_file_that_is_gone_when_its_turn_comes_is_named(tmp_path, tiny_teacher):
    save_images(tmp_path, ["1"])
    batches = evaluation_batches(str(tmp_path), load_classifier(str(tiny_teacher)), workers=1)
    (tmp_path / "1" / "1.png").unlink()
    with pytest.raises(UsageError, match=r"1\.png can't be read: No such file or directory\.$"):
        list(batches)


def test_a_store_and_a_folder_of_its_images_give_the_same_answer(tmp_path, tiny_teacher):
    classifier = load_classifier(str(tiny_teacher))
    store = filled_store(tmp_path / "s.zarr", num_images=40, image_shape=(32, 32, 3))
    for i in range(40):
        folder = tmp_path / "images" / str(store.class_ids[i])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(store.images[i]).save(folder / f"{i:03}.png")
    from_store = evaluate(classifier, evaluation_batches(store.path, classifier))
    from_folder = evaluate(classifier, evaluation_batches(str(tmp_path / "images"), classifier))
    np.testing.assert_array_equal(from_store.confusion, from_folder.confusion)


def test_webdataset_tars_and_a_folder_of_their_images_give_the_same_answer(tmp_path, tiny_teacher):
    import io
    import tarfile

    classifier = load_classifier(str(tiny_teacher))
    rng = np.random.default_rng(0)
    tars = tmp_path / "tars"
    tars.mkdir()
    with tarfile.open(tars / "val-0.tar", "w") as first, tarfile.open(tars / "val-1.tar", "w") as second:
        for i in range(20):
            folder = tmp_path / "images" / str(i % 7)
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{i:03}.png"
            Image.fromarray(rng.integers(0, 256, (40, 36, 3), np.uint8)).save(file)
            for suffix, data in (("png", file.read_bytes()), ("cls", str(i % 7).encode())):
                info = tarfile.TarInfo(f"{i:03}.{suffix}")
                info.size = len(data)
                (first, second)[i % 2].addfile(info, io.BytesIO(data))
    from_folder = evaluate(classifier, evaluation_batches(str(tmp_path / "images"), classifier))
    for source in (tars, tars / "val-{0..1}.tar"):
        from_tars = evaluate(classifier, evaluation_batches(str(source), classifier))
        np.testing.assert_array_equal(from_tars.confusion, from_folder.confusion)
    one = evaluate(classifier, evaluation_batches(str(tars / "val-1.tar"), classifier))
    assert one.num_images == 10
    with pytest.raises(UsageError, match="are missing"):
        evaluation_batches(str(tars / "val-{0..2}.tar"), classifier)


def test_a_store_of_other_classes_is_refused(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=16)
    with pytest.raises(UsageError, match="has 10 classes and fixed knows 3"):
        evaluation_batches(store.path, Fixed(num_classes=3))


@pytest.fixture
def some_images(tmp_path):
    """More than two batches of them, each its own."""
    for number in range(600):
        folder = tmp_path / "some" / str(number % 10)
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(folder / f"{number:03}.ppm")
    return tmp_path / "some"


def test_however_many_threads_decode_the_order_is_the_same(some_images, tiny_teacher):
    classifier = load_classifier(str(tiny_teacher))
    one, many = (list(evaluation_batches(str(some_images), classifier, workers=workers)) for workers in (0, 8))
    assert [len(ids) for _, ids in one] == [256, 256, 88]
    for (pixels, ids), (same_pixels, same_ids) in zip(one, many, strict=True):
        assert torch.equal(pixels, same_pixels) and ids.tolist() == same_ids.tolist()
    colours = torch.cat([pixels[:, :2, 0, 0] for pixels, _ in one])
    assert len({tuple(colour) for colour in colours.tolist()}) == 600


def test_threads_that_decode_are_shared_by_the_processes_of_a_machine(monkeypatch):
    monkeypatch.setenv("DMKD_CPU_THREADS", "12")
    assert [decoding_threads(processes) for processes in (1, 2, 12, 20)] == [8, 6, 1, 1]


def test_what_was_decoded_once_is_kept(some_images, tiny_teacher, tmp_path):
    classifier = load_classifier(str(tiny_teacher))
    store = filled_store(tmp_path / "s.zarr", num_images=40, image_shape=(32, 32, 3))
    for source in (str(some_images), store.path):
        images = KeptImages(list_evaluation(source, classifier), classifier.input_size)
        first = evaluate(classifier, images)
        shutil.rmtree(source)
        again = evaluate(classifier, images)
        np.testing.assert_array_equal(first.confusion, again.confusion)
        assert again.num_images in (600, 40)


def test_a_pass_that_was_broken_off_is_not_taken_for_all(some_images, tiny_teacher):
    classifier = load_classifier(str(tiny_teacher))
    images = KeptImages(list_evaluation(str(some_images), classifier), classifier.input_size)
    next(iter(images))
    assert evaluate(classifier, images).num_images == 600


def test_more_than_half_of_the_memory_is_not_taken(some_images, tiny_teacher, monkeypatch):
    classifier = load_classifier(str(tiny_teacher))
    listed = list_evaluation(str(some_images), classifier)
    monkeypatch.setattr("dmkd.classifiers.kept_images.available_memory", lambda: 3_600_000)
    told = []
    images = KeptImages(listed, classifier.input_size, notice=told.append)  # 600 * 3 * 32 * 32 bytes
    expected = [ids.tolist() for _, ids in images]
    assert [ids.tolist() for _, ids in images] == expected
    assert told == [
        "The images to measure on take 1.8 MB as pixels, more than half of the 3.6 MB of memory available: they are not kept, "
        "but decoded for each evaluation."
    ]
    shutil.rmtree(some_images)
    with pytest.raises(UsageError, match="can't be read"):
        list(images)

    told.clear()
    half = KeptImages(listed, classifier.input_size, rank=1, processes=2, sharing=1, notice=told.append)
    with pytest.raises(UsageError, match="can't be read"):
        list(half)
    assert not told, "one of two machines holds one batch of three"


def test_shares_are_all_images_and_each_once(some_images, tiny_teacher):
    classifier = load_classifier(str(tiny_teacher))
    listed = list_evaluation(str(some_images), classifier)
    shares = [KeptImages(listed, classifier.input_size, rank, processes=4) for rank in range(4)]
    parts = [evaluate(classifier, share) for share in shares]
    assert [part.num_images for part in parts] == [256, 256, 88, 0]
    whole = evaluate(classifier, evaluation_batches(str(some_images), classifier))
    np.testing.assert_array_equal(sum(part.confusion for part in parts), whole.confusion)
    np.testing.assert_array_equal(sum(part.in_top5 for part in parts), whole.in_top5)
