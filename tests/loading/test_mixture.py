"""Several stores in one loader: shares, order, classes, labels."""

import numpy as np
import pytest
import torch
from conftest import CLASS_NAMES, block_arrays, filled_store
from hypothesis import given, settings
from hypothesis import strategies as st

import dmkd
from dmkd.loading.mixture import images_an_epoch
from dmkd.loading.order import in_proportion
from dmkd.loading.sources import BlockWindow
from dmkd.recipes.store_choice import complete_weights, labels_of_each, parse_store
from dmkd.stores import UsageError, create_store, parse_codec


def store_with(path, num_images, class_names=CLASS_NAMES, codec="float16", wnids=None, labelled=True, size=8):
    """8 x 8 images of these classes. Class ids go round; the teacher is sure of them, and image ``i`` has ``i`` in its corner."""
    store = create_store(
        str(path),
        recipe={"generator": "none", "seed": num_images},
        num_images=num_images,
        image_shape=(size, size, 3),
        class_names=list(class_names),
        block_size=16,
        **({"class_wnids": wnids} if wnids else {}),
    )
    store.add_view_set(
        "views", 2, ("top", "left", "height", "width", "flip"), {"size": size, "interpolation": "bilinear"}
    )
    if labelled:
        own = {"teacher": {"name": "t"}, "source": "t", "view_set": "views", "num_classes": len(class_names)}
        store.add_label_set("teacher", codec=parse_codec(codec), **own)
    for block in range(store.num_blocks):
        ids = np.array(store.block_ids(block))
        arrays = block_arrays(store, block)
        arrays["images"][:, 0, 0, 0], arrays["images"][:, 0, 0, 1] = ids % 256, ids // 256
        arrays["views"]["views"][:, :, 0], arrays["views"]["views"][:, :, 2] = (
            (0, 0.25),
            0.75,
        )  # views differ in their top
        arrays["class_ids"] = (ids % len(class_names)).astype(np.int32)
        logits = np.tile(np.arange(len(class_names), dtype=np.float32) / 16, (len(ids), 2, 1))
        logits[np.arange(len(ids)), :, arrays["class_ids"]] = 9
        arrays["labels"] = {"teacher": (logits, arrays["labels"]["teacher"][1])} if labelled else {}
        store.write_block(block, **arrays)
    return store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mixture")


@pytest.fixture(scope="module")
def a(folder):
    return store_with(folder / "a.zarr", 100)


@pytest.fixture(scope="module")
def b(folder):
    """The same classes in another order."""
    return store_with(folder / "b.zarr", 60, CLASS_NAMES[::-1])


def seen(batches, store):
    """What is shown of a store: (id, view) in the order of the batches."""
    found = []
    for batch in batches:
        for path, part in zip(batch.stores, batch.parts, strict=True):
            found += part.ids.tolist() if path == store.path else []
    return found


def counts(batches, store):
    return [sum(len(p) for path, p in zip(b.stores, b.parts, strict=True) if path == store.path) for b in batches]


# Shares


@settings(deadline=None, max_examples=200)
@given(totals=st.lists(st.integers(0, 400), min_size=1, max_size=6), number=st.integers(1, 50))
def test_kinds_are_used_up_together(totals, number):
    totals = np.array(totals)
    taken = np.unique(np.linspace(0, totals.sum(), number, dtype=np.int64, endpoint=True))
    taken = np.union1d(taken, [totals.sum()])
    until = in_proportion(totals[None], taken)
    assert (until.sum(1) == taken).all() and (until[-1] == totals).all()
    assert (np.diff(until, axis=0, prepend=0) >= 0).all()
    off = np.abs(until - taken[:, None] * totals / max(1, totals.sum())).max()
    assert off <= (1 if len(totals) <= 3 else len(totals) / 2)


def test_without_weights_each_image_comes_once_an_epoch(a, b):
    mixture = dmkd.loader([a, b], batch_size=32, device="cpu")
    assert mixture.num_images == 160 and len(mixture) == 5
    for epoch in range(2):
        batches = list(mixture.epoch(epoch))
        assert [len(batch) for batch in batches] == [32] * 5 and counts(batches, a) == [20] * 5
        assert sorted(seen(batches, a)) == list(range(100)) and sorted(seen(batches, b)) == list(range(60))


def test_weights_are_shares_of_each_batch_and_stores_go_on_where_they_were(a, b):
    mixture = dmkd.loader([a.path, (b.path, 3)], batch_size=16, device="cpu")
    of_a, of_b = [], []
    for epoch in range(4):
        batches = list(mixture.epoch(epoch))
        assert sum(map(len, batches)) == 160 and counts(batches, a) == [4] * 10 and counts(batches, b) == [12] * 10
        of_a, of_b = of_a + seen(batches, a), of_b + seen(batches, b)
    # 160 of a's 100 images, 480 of b's 60: each as often as the others, in rounds of all.
    assert sorted(of_a[:100]) == list(range(100)) and len(set(of_a[100:])) == 60
    rounds = [of_b[start : start + 60] for start in range(0, 480, 60)]
    assert all(sorted(one) == list(range(60)) for one in rounds) and rounds[0] != rounds[1]


def test_a_store_that_is_used_up_goes_on_with_its_next_views(a, b):
    """View sets of two views: an image's second time is its other view."""
    mixture = dmkd.loader([a, (b, 3)], batch_size=16, device="cpu")
    own = mixture.loaders[1]
    which = {}
    for ids, epochs in own.batches_of(0) + own.batches_of(1):
        for image, view in zip(ids.tolist(), own.views_of_epoch(ids, epochs).tolist(), strict=True):
            which.setdefault(image, []).append(view)
    assert all(sorted(views) == [0, 1] for views in which.values())
    views = []
    for batch in mixture.epoch(0):
        part = batch.parts[batch.stores.index(b.path)]
        views += zip(part.ids.tolist(), part.views[:, 0].tolist(), strict=True)
    assert sorted(views) == sorted((image, 0.25 * view) for image in which for view in (0, 1))


@settings(deadline=None, max_examples=25)
@given(weight=st.sampled_from([None, 0.3, 1.0, 7.0]), world_size=st.integers(1, 4), epoch=st.integers(0, 2))
def test_ranks_share_each_stores_part_of_the_batches_of_a_single_one(a, b, weight, world_size, epoch):
    stores = [a, b if weight is None else (b, weight)]
    alone = dmkd.loader(stores, batch_size=24, device="cpu")
    shares = [
        dmkd.loader(stores, batch_size=24 // world_size, device="cpu", rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert all(share.order_description == alone.order_description for share in shares)
    for first in (0, 3):
        for whole, *parts in zip(*(one.epoch(epoch, first) for one in (alone, *shares)), strict=True):
            sizes = [len(part) for part in parts]
            assert sum(sizes) == len(whole) and max(sizes) - min(sizes) <= 1
            for store in (a, b):
                assert sorted(seen([whole], store)) == sorted(seen(parts, store))
                each = [sum(counts([part], store)) for part in parts]
                assert max(each) - min(each) <= 2


def test_a_mixture_can_be_entered_half_way_and_left_out_of(a, b):
    mixture = dmkd.loader([a, f"{b.path}=2"], batch_size=10, device="cpu")
    whole = list(mixture.epoch(1))
    for first, every in ((5, 1), (1, 3)):
        rest = list(mixture.epoch(1, first, every))
        for one, other in zip(whole[first::every], rest, strict=True):
            assert one.stores == other.stores and seen([one], a) == seen([other], a)
            assert torch.equal(one.pixels(), other.pixels()) and torch.equal(one.class_ids, other.class_ids)


def test_stores_that_were_made_alike_are_not_read_alike(folder, a):
    twin = store_with(folder / "twin.zarr", 100)
    batches = list(dmkd.loader([a, twin], batch_size=20, device="cpu").epoch(0))
    assert any(sorted(seen([batch], a)) != sorted(seen([batch], twin)) for batch in batches)


def test_images_of_stores_too_large_to_hold_come_through_their_windows(folder, a, monkeypatch):
    packed = filled_store(folder / "webp.zarr", num_images=200, image_codec="webp")
    large = store_with(folder / "unpacked.zarr", 400)
    mixture = dmkd.loader([large, (packed, 2)], batch_size=20, device="cpu", memory=0)
    assert mixture.loaders[0].window is None and mixture.loaders[1].window == 2
    assert mixture.order_description["order"] == "full, 2 lanes of a block"
    held, submit = [], BlockWindow._submit
    monkeypatch.setattr(BlockWindow, "_submit", lambda self: (submit(self), held.append(len(self._held))))
    found = [i for epoch in range(3) for i in seen(mixture.epoch(epoch), packed)]
    assert len(found) == 1200 and all(sorted(found[n : n + 200]) == list(range(200)) for n in range(0, 1200, 200))
    assert max(held) <= 4, "though an epoch of both goes through this store twice"


# Contents


def test_classes_and_logits_have_the_first_stores_numbers(a, b):
    for batch in dmkd.loader([a, b], batch_size=32, device="cpu").epoch(0):
        assert (batch.logits(2.0).argmax(1) == batch.class_ids).all()
        assert batch.pixels().shape == (32, 3, 8, 8) and len(batch) == 32
        for path, part in zip(batch.stores, batch.parts, strict=True):
            store = a if path == a.path else b
            names = [CLASS_NAMES[i] for i in part.class_ids.tolist()]
            assert names == [store.class_names[i] for i in store.class_ids[part.ids].tolist()]
            assert (part.images[:, 0, 0, 0].numpy() == part.ids).all()
            # The teachers' other logits tell the classes apart as well.
            logits, own = part.logits(), store.labels["teacher"].logits(part.ids, view=0)
            order = [store.class_names.index(name) for name in CLASS_NAMES]
            np.testing.assert_allclose(logits.numpy(), own[:, order])


def test_sparse_labels_are_numbered_anew_as_well(folder, a):
    sparse = store_with(folder / "sparse.zarr", 40, CLASS_NAMES[5:] + CLASS_NAMES[:5], codec="topk:3")
    batch = next(dmkd.loader([a, sparse], batch_size=40, device="cpu").epoch(0))
    part = batch.parts[1]
    ids, _ = part.decoder.decoders["teacher"].sparse(part.labels["teacher"])
    assert (ids[:, 0] == part.class_ids).all()


def test_a_store_of_some_of_the_classes_lends_its_class_ids(folder, a):
    some = store_with(folder / "some.zarr", 30, ["7", "2", "5"])
    hard = dmkd.loader([a, some], labels="teacher,some.zarr:", batch_size=65, device="cpu")
    for batch in hard.epoch(0):
        assert set(batch.parts[1].class_ids.tolist()) <= {7, 2, 5} and not batch.parts[1].labels
        with pytest.raises(UsageError, match=r"no logits of .*some.zarr, which is learnt from without labels"):
            batch.logits()
    with pytest.raises(
        UsageError, match=r"some.zarr has no classes 0, 1, 3, 4, 6 and 2 more of .*a.zarr.*class ids alone"
    ):
        dmkd.loader([a, some], device="cpu")
    with pytest.raises(UsageError, match=r"some.zarr has no classes 0, 1, 3, 4, 6 and 2 more of .*a.zarr: stores are"):
        dmkd.loader([some, a], device="cpu")


def test_classes_are_matched_by_wordnet_id_where_both_stores_know_these(folder):
    one = store_with(folder / "one.zarr", 20, ["crane", "crane"], wnids=["n02012849", "n03126707"])
    other = store_with(folder / "other.zarr", 20, ["machine", "bird"], wnids=["n03126707", "n02012849"])
    for batch in dmkd.loader([one, other], batch_size=20, device="cpu").epoch(0):
        part = batch.parts[1]
        assert (part.class_ids.numpy() == 1 - other.class_ids[part.ids]).all()
    unknown = store_with(folder / "unknown.zarr", 20, ["crane", "crane"])
    assert dmkd.loader([one, unknown], device="cpu").loaders[1].class_numbers is None, "told apart by their order"


def test_images_of_any_size_are_shown_at_one(folder, a):
    large = store_with(folder / "large.zarr", 40, size=24)
    batch = next(dmkd.loader([a, large], batch_size=28, device="cpu").epoch(0))
    assert batch.pixels().shape == (28, 3, 8, 8) and batch.pixels(size=12).shape == (28, 3, 12, 12)
    n = len(batch.parts[0])
    assert torch.equal(batch.pixels(size=24)[n:], batch.parts[1].pixels())


# What is asked for


def test_stores_and_labels_as_users_write_them(folder, a, b, monkeypatch):
    assert parse_store("b.zarr=3") == ("b.zarr", 3.0) and parse_store("s3://x/b.zarr") == ("s3://x/b.zarr", None)
    (folder / "c=3").mkdir()
    monkeypatch.chdir(folder)
    assert parse_store("c=3") == ("c=3", None), "a folder of that name"
    for wrong in ("b.zarr=0", "b.zarr=-1", "b.zarr=inf", "b.zarr=nan"):
        with pytest.raises(UsageError, match="a weight is a number greater than 0, as in b.zarr=3"):
            parse_store(wrong)
    assert complete_weights([None, None]) is None and complete_weights([None, 3.0]) == (1.0, 3.0)
    plain = store_with(folder / "plain.zarr", 16, labelled=False)
    stores = [a, b, plain]
    for text, expected in {
        None: [None, None, ""],
        "": ["", "", ""],
        "teacher": ["teacher", "teacher", ""],
        "a.zarr:t=2,u,b.zarr:": ["t=2,u", "", ""],
        "t,b.zarr:": ["t", "", ""],
        f"{b.path}:clip:x,y": [None, "clip:x,y", ""],
        "plain.zarr:t": [None, None, "t"],
    }.items():
        assert labels_of_each(text, stores) == expected, text
    with pytest.raises(UsageError, match=r"a.zarr is named twice"):
        labels_of_each("a.zarr:t,b.zarr:,a.zarr:u", stores)
    with pytest.raises(UsageError, match=r"plain.zarr has no label set 't'; it has none."):
        dmkd.loader(stores, labels="plain.zarr:t", device="cpu")


def test_what_can_not_be_mixed_is_refused(a, b):
    with pytest.raises(UsageError, match=r"a.zarr is named twice: name each store once"):
        dmkd.loader([a, b, a], device="cpu")
    with pytest.raises(UsageError, match=r"b.zarr=1e-06 leaves this store less than one image an epoch"):
        images_an_epoch([100, 60], [1.0, 1e-6], [a, b])
    with pytest.raises(UsageError, match="160 images can't be shared among 200 ranks"):
        dmkd.loader([a, b], device="cpu", world_size=200)
