"""dmkd view: the pixels on a sheet are the store's, views are what the teacher saw, and captions say what is stored."""

import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import block_arrays, filled_store, new_store
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from dmkd.cli.commands import view as view_command
from dmkd.cli.main import main
from dmkd.stores import StoreError, UsageError, create_store, open_store
from dmkd.stores.showing.contact_sheet import Line, Row, Tile, draw_sheet, enlarge, image_tiles
from dmkd.stores.showing.picks import pick_by_class, pick_by_opinion
from dmkd.views.render import render_block
from dmkd.views.sheet import render_views, view_tiles, views_sheet


def dmkd(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(filled_store(tmp_path_factory.mktemp("view") / "s.zarr").path)


@pytest.mark.parametrize(("size", "shown"), [((8, 8), 128), ((32, 32), 128), ((100, 100), 200), ((256, 256), 256)])
def test_enlarged_pixels_are_the_pixels(size, shown):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    image = np.asarray(enlarge(pixels))
    assert image.shape == (shown, shown, 3)
    factor = shown // size[0]
    np.testing.assert_array_equal(image[::factor, ::factor], pixels)
    np.testing.assert_array_equal(image, pixels.repeat(factor, 0).repeat(factor, 1))


def test_large_pictures_are_reduced_in_proportion():
    assert enlarge(np.zeros((512, 1024, 3), np.uint8)).size == (256, 128)


@settings(deadline=None, max_examples=25)
@example([(8, 8, "two\nlines")], "a\ntitle", None, True)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300), st.text(max_size=40)), min_size=1, max_size=12),
    st.text(max_size=60),
    st.one_of(st.none(), st.integers(1, 9)),
    st.booleans(),
)
def test_any_tiles_and_any_text_make_a_sheet_that_holds_them(tiles, text, columns, above):
    made = [Tile(np.full((h, w, 3), 7, np.uint8), (Line(t, right=t), Line(t, share=0.5))) for h, w, t in tiles]
    sheet = draw_sheet(text, text, [Row(made, text, above)], columns)
    assert sheet.mode == "RGB" and sheet.width <= 2600
    seen = (np.asarray(sheet) == 7).all(-1).sum()
    assert seen >= sum(tile.size[0] * tile.size[1] for tile in (enlarge(tile.pixels) for tile in made))


def test_a_sheet_shows_the_images_in_the_order_of_their_ids(store, tmp_path):
    out = tmp_path / "a.png"
    result = dmkd("view", store.path, "--ids", "7,3,50-51", "--out", out)
    assert result.exit_code == 0, result.output
    assert str(out) in result.stdout
    sheet = np.asarray(Image.open(out))
    place = 0
    for image in store.images[[7, 3, 50, 51]]:
        corner = image.repeat(16, 0).repeat(16, 1)[:40, :40]  # the rest may lie below a neighbour's frame
        found = [
            x
            for y in range(60, 140)
            for x in np.flatnonzero((sheet[y, :-40] == corner[4, 4]).all(-1)).tolist()
            if np.array_equal(sheet[y : y + 36, x : x + 36], corner[4:, 4:])
        ]
        assert found and min(found) > place
        place = min(found)


def test_captions_are_what_is_stored(store):
    label_set = store.labels["teacher"]
    for number, tile in enumerate(image_tiles(store, range(20), label_set)):
        top1, p_class, entropy = label_set.quality[number]
        head, opinion, *rest = tile.lines
        assert (head.text, head.right) == (f"#{number}", str(store.class_ids[number]))
        assert (opinion.text, opinion.right) == (f"p {p_class:.2f}", f"H {entropy:.2f}")
        agrees = top1 == store.class_ids[number]
        assert (tile.frame is None) == agrees and [line.text for line in rest] == (
            [] if agrees else [f"seen as {top1:.0f}"]
        )


def test_picks_are_what_they_are_called(store):
    label_set = store.labels["teacher"]
    quality, class_ids = label_set.quality[:], store.class_ids[:]
    agreed, among = pick_by_opinion(store, label_set, "agreed", 5)
    assert among == 100 and set(agreed) == set(np.argsort(-quality[:, 1])[:5])
    disagreed, _ = pick_by_opinion(store, label_set, "disagreed", 5)
    assert set(disagreed) == set(np.argsort(quality[:, 1])[:5])
    entropy, _ = pick_by_opinion(store, label_set, "entropy", 7)
    assert np.all(np.diff(quality[entropy, 2]) >= 0) and len(set(entropy.tolist())) == 7
    assert quality[entropy[0], 2] == quality[:, 2].min() and quality[entropy[-1], 2] == quality[:, 2].max()
    chosen = pick_by_class(store, 3)
    assert list(chosen) == sorted(set(class_ids.tolist()))
    for class_id, ids in chosen.items():
        assert ids.tolist() == np.flatnonzero(class_ids == class_id)[:3].tolist()
    with pytest.raises(UsageError, match="no images of class 77"):
        pick_by_class(store, 3, [77])


def mixed_store(path, mix):
    """A store of 12 images in blocks of 4, whose views mix: random contents."""
    from dmkd.views.policy import MIX_COMPONENTS, VIEW_COMPONENTS

    rng = np.random.default_rng(5)
    recipe = {"generator": "none", "seed": 0}
    store = create_store(
        str(path), recipe=recipe, num_images=12, image_shape=(16, 16, 3), class_names=["a"], block_size=4
    )
    components = VIEW_COMPONENTS + MIX_COMPONENTS[mix]
    store.add_view_set("mixed", 3, components, {"policy": "test", "size": 8, "interpolation": "bilinear"})
    for block in range(3):
        views = np.zeros((4, 3, len(components)), np.float32)
        views[:, :, :2], views[:, :, 2:4] = rng.integers(0, 5, (4, 3, 2)) / 16, 0.5
        views[:, :, 5] = rng.integers(0, 4, (4, 3))
        views[:, :, 6:] = rng.integers(1, 4, (4, 3, len(components) - 6)) / 8
        images = rng.integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
        store.write_block(block, images=images, class_ids=np.zeros(4, np.int32), views={"mixed": views})
    return store


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_views_are_those_that_the_teacher_saw(tmp_path, mix):
    store = mixed_store(tmp_path / "m.zarr", mix)
    view_set = store.views["mixed"]
    for image_id in (0, 6, 11):
        block = np.array(store.block_ids(image_id // 4))
        how = {"size": 8, "interpolation": "bilinear", "components": view_set.components}
        seen = render_block(store.images[block], view_set[block], **how)[image_id % 4]
        np.testing.assert_array_equal(render_views(store, image_id, view_set), seen.permute(0, 2, 3, 1).numpy())
    assert views_sheet(store, 6).width > 300  # no labels yet


def test_probabilities_below_a_view_are_at_the_temperature(store):
    label_set = store.labels["teacher"]
    (tile, _) = view_tiles(store, 9, store.views["views"], label_set, temperature=3.0)
    logits = label_set.logits(9, view=0).astype(np.float64) / 3
    expected = np.exp(logits) / np.exp(logits).sum()
    _, *top = tile.lines
    assert [line.right for line in top] == [f"{p:.3f}" for p in np.sort(expected)[::-1][:5]]
    assert [line.text for line in top] == [str(c) for c in np.argsort(-expected)[:5]]
    assert [line.text for line in top if line.marked] == [
        c for c in [str(store.class_ids[9])] if c in {x.text for x in top}
    ]


def test_sheets_of_a_store_that_is_half_made(tmp_path):
    path = tmp_path / "s.zarr"
    store = new_store(path)
    result = dmkd("view", path, "--out", tmp_path / "a.png")
    assert result.exit_code == 1 and "has no images yet" in result.stderr and not (tmp_path / "a.png").exists()
    with pytest.raises(StoreError, match="no images that teacher has labelled yet"):
        pick_by_opinion(store, store.labels["teacher"], "entropy", 3)
    arrays = block_arrays(store, 2)
    del arrays["labels"]
    store.write_block(2, **arrays)
    assert dmkd("view", path, "--out", tmp_path / "a.png").exit_code == 0
    assert dmkd("view", path, "--image", "33", "--out", tmp_path / "b.png").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--ids", "7-"], "can't be read"),
        (["--ids", "100"], "there is no image 100"),
        (["--ids", "5-3"], "can't be read"),
        (["--ids", "0-99999999"], "too many images"),
        (["--ids", "1", "--image", "3"], "give one of them"),
        (["--by", "entropy", "--classes", "3"], "--classes goes with --by class"),
        (["--classes", "77"], "there is no class 77"),
        (["--labels", "resnet"], "no label set 'resnet'; it has teacher"),
        (["--image", "3", "--temperature", "0"], "above 0"),
        (["--image", "100"], "there is no image 100"),
        (["--out", "a.jpg"], "must end in .png"),
    ],
)
def test_bad_wishes_are_one_sentence(store, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    result = dmkd("view", store.path, *arguments)
    assert result.exit_code == 2 and told in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_written_is_one_sentence(store, tmp_path):
    result = dmkd("view", store.path, "--out", tmp_path / "no" / "a.png")
    assert result.exit_code == 1 and "Could not write" in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="desktops of Linux")
def test_it_is_opened_where_there_is_a_display_and_said_where_there_is_none(tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: started.append(command))
    monkeypatch.setattr(view_command.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    view_command.open_file(tmp_path / "a.png")
    assert not started and "no display" in capsys.readouterr().err
    monkeypatch.setenv("DISPLAY", ":0")
    view_command.open_file(tmp_path / "a.png")
    assert started == [["xdg-open", str(tmp_path / "a.png")]]


def test_a_store_in_a_bucket_can_be_looked_at(place, tmp_path):
    filled_store(place.path)
    for choice in (["--by", "class"], ["--by", "disagreed"], ["--image", "5"]):
        result = dmkd("view", place.path, *choice, "--out", tmp_path / "a.png")
        assert result.exit_code == 0, result.output
