"""dmkd import: images that exist already become a store like a generated one."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import filled_store, tree_bytes
from PIL import Image

from dmkd.cli.main import main
from dmkd.formats.decode import BrokenImage, decode, fit
from dmkd.formats.find import Classes, expand_braces, find_images, read_bytes
from dmkd.import_images import ImportOptions, import_images, import_order
from dmkd.runtime.progress import Silent
from dmkd.stores import MismatchError, UsageError, open_store


def picture(number, width=16, height=16):
    """A picture of its own for each number: uint8 (height, width, 3)."""
    return np.random.default_rng(number).integers(0, 256, (height, width, 3)).astype(np.uint8)


def png(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def image_folder(root, classes=3, each=8, size=16):
    """Folders c0, c1 ... of pictures, some of them nested -> what should come back: {name: (class id, pixels)}."""
    contents = {}
    for class_id in range(classes):
        for k in range(each):
            name = f"c{class_id}/{'deep/er/' if k % 3 == 0 else ''}{k:03}.png"
            pixels = picture(1000 * class_id + k, size, size)
            write(root / name, png(pixels))
            contents[name] = (class_id, pixels)
    return contents


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def run_import(store, source, **options):
    return import_images(str(store), str(source), ImportOptions(**options), Silent())


def same_images(store, expected):
    """Whether the store holds just these (class id, pixels), in any order."""
    held = {(int(c), image.tobytes()) for c, image in zip(store.class_ids[:], store.images[:], strict=True)}
    assert not store.missing_blocks()
    return store.num_images == len(expected) and held == {(c, pixels.tobytes()) for c, pixels in expected}


def test_an_image_folder_comes_back_to_the_bit(tmp_path):
    contents = image_folder(tmp_path / "images")
    (tmp_path / "images/c0/notes.txt").write_text("not an image")
    (tmp_path / "images/.cache").mkdir()
    write(tmp_path / "images/c1/._000.png", b"what a Mac leaves behind")
    store = run_import(tmp_path / "s.zarr", tmp_path / "images", block_size=5)
    assert same_images(store, contents.values())
    assert store.class_names == ["c0", "c1", "c2"] and store.block_size == 5 and store.image_shape == (16, 16, 3)
    assert store.recipe["layout"] == "image folder" and store.source is None


@pytest.mark.parametrize("nested", [False, True])
def test_dm_kd_names_with_gaps_between_the_class_ids(tmp_path, nested):
    contents = []
    for number, class_id in enumerate((2, 2, 7, 0)):
        folder = tmp_path / "images" / (f"part{number % 2}" if nested else "")
        write(folder / f"class_{class_id}_seed_{number}_num_{number}.png", png(picture(number)))
        contents.append((class_id, picture(number)))
    store = run_import(tmp_path / "s.zarr", tmp_path / "images")
    assert same_images(store, contents)
    assert store.class_names == [f"class {i}" for i in range(8)] and store.recipe["layout"] == "dm-kd"
    assert run_import(tmp_path / "t.zarr", tmp_path / "images", classes=10).num_classes == 10
    (tmp_path / "names.txt").write_text("".join(f"name {i}\n" for i in range(9)))
    named = run_import(tmp_path / "u.zarr", tmp_path / "images", class_names=str(tmp_path / "names.txt"))
    assert named.class_names[8] == "name 8"
    with pytest.raises(UsageError, match="class_7_seed_2_num_2.png .* is of class 7, but there are 5 classes"):
        run_import(tmp_path / "v.zarr", tmp_path / "images", classes=5)


@pytest.fixture
def shards(tmp_path):
    """Three tar files: labels as .cls and as .json; other members between -> (folder, what should come back)."""
    contents = []
    for shard in range(3):
        members = []
        for k in range(4):
            number = shard * 4 + k
            contents.append((number % 5, picture(number)))
            key = f"./dir/{k:04}" if shard == 1 else f"{k:04}"
            label = (f"{key}.cls", f"{number % 5}\n".encode())
            if shard == 2:
                label = (f"{key}.json", json.dumps({"label" if k % 2 else "class": number % 5, "x": "y"}).encode())
            members += [(f"{key}.txt", b"a caption"), (f"{key}.PNG" if k == 0 else f"{key}.png", png(picture(number)))]
            members.insert(-1 if k % 2 else len(members), label)
        members += [("__meta__.json", b"{}")]
        write_tar(tmp_path / f"tars/shard-{shard:03}.tar", members)
    return tmp_path / "tars", contents


def test_webdataset_tars_by_folder_pattern_and_single_file(shards, tmp_path):
    folder, contents = shards
    store = run_import(tmp_path / "s.zarr", folder, block_size=4)
    assert same_images(store, contents)
    assert store.recipe["layout"] == "webdataset" and store.num_classes == 5
    by_pattern = run_import(tmp_path / "t.zarr", folder / "shard-{000..002}.tar", block_size=4)
    assert tree_bytes(tmp_path / "s.zarr") == tree_bytes(tmp_path / "t.zarr")
    assert by_pattern.identity == store.identity
    assert same_images(run_import(tmp_path / "u.zarr", folder / "shard-001.tar"), contents[4:8])


def test_braces_expand_as_in_a_shell():
    assert expand_braces("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand_braces("{x,y}/{0..1}.tar") == ["x/0.tar", "x/1.tar", "y/0.tar", "y/1.tar"]
    assert expand_braces("plain{}.tar") == ["plain{}.tar"]


def test_class_names_decide_the_ids_of_folders(tmp_path):
    for folder in ("10", "2", "0"):
        write(tmp_path / f"numbers/{folder}/a.png", png(picture(int(folder))))
        write(tmp_path / f"names/n{folder}/a.png", png(picture(int(folder))))
    contents = {number: (number, picture(number)) for number in (0, 2, 10)}
    by_order = run_import(tmp_path / "a.zarr", tmp_path / "numbers")
    assert by_order.class_names == ["0", "10", "2"]
    assert same_images(by_order, [(0, picture(0)), (1, picture(10)), (2, picture(2))])
    assert same_images(run_import(tmp_path / "b.zarr", tmp_path / "numbers", classes=11), contents.values())
    (tmp_path / "names.txt").write_text("\n".join(f"x{i}, n{i}" for i in range(11)))
    by_synonym = run_import(tmp_path / "c.zarr", tmp_path / "names", class_names=str(tmp_path / "names.txt"))
    assert same_images(by_synonym, contents.values()) and by_synonym.class_names[10] == "x10, n10"
    (tmp_path / "three.txt").write_text("\ufefffirst\nsecond\nthird\n\n", encoding="utf-8")
    renamed = run_import(tmp_path / "d.zarr", tmp_path / "names", class_names=str(tmp_path / "three.txt"))
    assert renamed.class_names == ["first", "second", "third"]
    with pytest.raises(UsageError, match="has 3 class folders but 4 classes were given"):
        run_import(tmp_path / "e.zarr", tmp_path / "names", classes=4)
    with pytest.raises(UsageError, match="contradict each other"):
        run_import(tmp_path / "e.zarr", tmp_path / "names", classes=4, class_names=str(tmp_path / "three.txt"))


@pytest.mark.parametrize("shape", [(40, 31), (31, 40), (16, 33), (17, 17), (9, 5), (16, 16), (300, 47)])
def test_resizing_is_that_of_timm(shape):
    from torchvision import transforms

    image = Image.fromarray(picture(1, *shape))
    wanted = transforms.Compose(
        [transforms.Resize(16, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(16)]
    )(image)
    assert np.array_equal(fit(image, 16), np.asarray(wanted))


def test_mixed_sizes_need_a_size(tmp_path):
    image_folder(tmp_path / "images", each=3)
    write(tmp_path / "images/c1/wide.png", png(picture(1, 48, 20)))
    with pytest.raises(UsageError, match=r"have 2 sizes.* 16x16 \(9\), 48x20 \(1\).*--size"):
        run_import(tmp_path / "s.zarr", tmp_path / "images")
    assert not (tmp_path / "s.zarr").exists()
    store = run_import(tmp_path / "s.zarr", tmp_path / "images", size=16)
    wide = Image.fromarray(picture(1, 48, 20)).resize((38, 16), Image.Resampling.BICUBIC).crop((11, 0, 27, 16))
    assert np.asarray(wide).tobytes() in {image.tobytes() for image in store.images[:]}
    assert store.recipe["image_size"] == 16
    for name in tmp_path.glob("images/c*/*.png"):
        name.unlink()
    write(tmp_path / "images/c0/a.png", png(picture(1, 48, 20)))
    shutil.rmtree(tmp_path / "images/c0/deep")
    shutil.rmtree(tmp_path / "images/c1/deep")
    shutil.rmtree(tmp_path / "images/c2/deep")
    with pytest.raises(UsageError, match="are not square"):
        run_import(tmp_path / "t.zarr", tmp_path / "images")


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_every_kind_of_pixels_becomes_rgb():
    rgb = Image.fromarray(picture(1))
    grey, palette = rgb.convert("L"), rgb.quantize(16)
    assert np.array_equal(decode(encoded(grey, "PNG")), np.asarray(grey.convert("RGB")))
    assert np.array_equal(decode(encoded(palette, "PNG")), np.asarray(palette.convert("RGB")))
    see_through = encoded(palette, "PNG", transparency=bytes(range(16)))
    assert np.array_equal(decode(see_through), np.asarray(palette.convert("RGB")))
    rgba = rgb.copy()
    rgba.putalpha(100)
    assert np.array_equal(decode(encoded(rgba, "PNG")), np.asarray(rgb))
    cmyk = encoded(rgb.convert("CMYK"), "JPEG")
    assert np.array_equal(decode(cmyk), np.asarray(Image.open(io.BytesIO(cmyk)).convert("RGB")))
    assert decode(encoded(rgb.convert("1"), "PNG")).mode == "RGB"


def test_sixteen_bits_keep_the_upper_eight_and_thirty_two_are_refused():
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    pixels = np.asarray(decode(encoded(Image.fromarray(deep), "PNG")))
    assert np.array_equal(pixels, np.repeat((deep // 256).astype(np.uint8)[:, :, None], 3, 2))
    with pytest.raises(BrokenImage, match="32 bits"):
        decode(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_respected(orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(picture(3, 16, 24)), "JPEG", exif=exif)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert wanted.size == ((16, 24) if orientation < 5 else (24, 16))
    assert np.array_equal(decode(data), np.asarray(wanted))


def test_every_run_of_as_many_ids_as_classes_is_a_permutation_if_classes_are_equal():
    class_ids = np.repeat(np.arange(10), 40)
    runs = class_ids[import_order(class_ids, seed=0)].reshape(40, 10)
    assert (np.sort(runs, 1) == np.arange(10)).all()
    assert len({tuple(run) for run in runs}) == 40, "each run has an order of its own"
    assert not np.array_equal(import_order(class_ids, 0), import_order(class_ids, 1))


def test_any_range_of_ids_is_as_balanced_as_the_source():
    counts = np.array([700, 1, 150, 300, 49])
    class_ids = np.repeat(np.arange(5), counts)
    order = import_order(class_ids, seed=3)
    assert np.array_equal(np.sort(order), np.arange(1200))
    drawn = np.cumsum(class_ids[order][:, None] == np.arange(5), 0)
    expected = np.arange(1, 1201)[:, None] * counts / 1200
    assert np.abs(drawn - expected).max() <= 2
    in_class = order[class_ids[order] == 0]
    assert np.abs(np.corrcoef(in_class, np.arange(700))[0, 1]) < 0.15, "files of a class are shuffled"


def test_blocks_that_are_deleted_come_back_the_same(tmp_path):
    image_folder(tmp_path / "images")
    run_import(tmp_path / "s.zarr", tmp_path / "images", block_size=4, workers=1)
    whole = tree_bytes(tmp_path / "s.zarr")
    (tmp_path / "s.zarr/images/c.2.0.0.0").unlink()
    (tmp_path / "s.zarr/images/c.5.0.0.0").unlink()
    assert open_store(tmp_path / "s.zarr").missing_blocks() == [2, 5]
    run_import(tmp_path / "s.zarr", tmp_path / "images", workers=3)
    assert tree_bytes(tmp_path / "s.zarr") == whole
    shutil.copytree(tmp_path / "images", tmp_path / "elsewhere")
    run_import(tmp_path / "t.zarr", tmp_path / "elsewhere", block_size=4)
    assert tree_bytes(tmp_path / "t.zarr") == whole, "the source's place does not count"
    run_import(tmp_path / "u.zarr", tmp_path / "images", block_size=4, seed=1)
    assert tree_bytes(tmp_path / "u.zarr") != whole


@pytest.mark.slow
def test_killed_and_started_again_the_store_is_the_same(tmp_path):
    image_folder(tmp_path / "images", each=80, size=64)
    run_import(tmp_path / "whole.zarr", tmp_path / "images", block_size=1)
    path = tmp_path / "s.zarr"
    command = [sys.executable, "-m", "dmkd.cli.main", "import", str(tmp_path / "images"), "--store", str(path)]
    command += ["--block-size", "1", "--workers", "2"]
    for chunks in (1, 30):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while len(list(path.rglob("c.*"))) < chunks and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert open_store(path).missing_blocks(), "killed before its end"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert tree_bytes(path) == tree_bytes(tmp_path / "whole.zarr")
    assert not list(path.rglob("*.partial"))


def test_a_source_that_has_changed_is_refused(tmp_path):
    image_folder(tmp_path / "images")
    store = run_import(tmp_path / "s.zarr", tmp_path / "images", block_size=4)
    before = tree_bytes(tmp_path / "s.zarr")
    write(tmp_path / "images/c1/new.png", png(picture(5)))
    with pytest.raises(MismatchError, match="files: the store has 24, you asked for 25; files_sha256"):
        run_import(tmp_path / "s.zarr", tmp_path / "images")
    (tmp_path / "images/c1/new.png").rename(tmp_path / "images/c1/000.png")
    (tmp_path / "images/c1/001.png").unlink()
    with pytest.raises(MismatchError, match="files_sha256"):
        run_import(tmp_path / "s.zarr", tmp_path / "images")
    shutil.rmtree(tmp_path / "images")
    image_folder(tmp_path / "images")
    for options, field in (({"size": 32}, "image_size"), ({"seed": 1}, "seed"), ({"block_size": 8}, "block_size")):
        with pytest.raises(MismatchError, match=f"{field}: the store has"):
            run_import(tmp_path / "s.zarr", tmp_path / "images", **options)
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    with pytest.raises(MismatchError, match="class_names"):
        run_import(tmp_path / "s.zarr", tmp_path / "images", class_names=str(tmp_path / "names.txt"))
    assert (
        run_import(tmp_path / "s.zarr", tmp_path / "images", size=16, seed=0, block_size=4).identity == store.identity
    )
    assert tree_bytes(tmp_path / "s.zarr") == before


class Listening(Silent):
    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


def test_broken_files_are_named_or_skipped(tmp_path):
    contents = image_folder(tmp_path / "images")
    write(tmp_path / "images/c1/004.png", b"")
    write(tmp_path / "images/c2/005.png", b"<html>not found</html>")
    with pytest.raises(
        UsageError, match=r"2 of 24 files of .* the first is c1/004.png \(its image format is not known here"
    ):
        run_import(tmp_path / "s.zarr", tmp_path / "images")
    truncated = png(picture(9))[:-200]
    write(tmp_path / "images/c0/001.png", truncated)  # its header is good
    display = Listening()
    options = ImportOptions(skip_broken=True, block_size=4)
    store = import_images(str(tmp_path / "s.zarr"), str(tmp_path / "images"), options, display)
    bad = ["c0/001.png", "c1/004.png", "c2/005.png"]
    assert same_images(store, [told for name, told in contents.items() if name not in bad])
    assert [notice.split(":")[0] for notice in display.notices] == [f"Skipped {name}" for name in bad]
    assert store.recipe["skipped"] == bad
    whole = tree_bytes(tmp_path / "s.zarr")
    (tmp_path / "s.zarr/images/c.2.0.0.0").unlink()
    run_import(tmp_path / "s.zarr", tmp_path / "images")  # what was skipped stays skipped
    assert tree_bytes(tmp_path / "s.zarr") == whole


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif", "tif", "ppm"])
@pytest.mark.parametrize("pixels", [16, 300])  # in one read, and in two
def test_what_breaks_off_is_found_before_a_store_is_made(tmp_path, suffix, pixels):
    image = Image.fromarray(picture(9, pixels, pixels))
    whole = encoded(image, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    write(tmp_path / f"images/a/0.{suffix}", whole)
    if suffix == "gif":  # is in no list of suffixes, yet some are called so
        (tmp_path / "images/a/0.gif").rename(tmp_path / "images/a/0.png")
    name = next((tmp_path / "images/a").iterdir()).name
    write(tmp_path / "images/b" / name, whole[:-40])
    with pytest.raises(UsageError, match=rf"1 of 2 files of .* the first is b/{name} \(.*--skip-broken"):
        run_import(tmp_path / "s.zarr", tmp_path / "images")
    assert not (tmp_path / "s.zarr").exists()
    write(tmp_path / "images/b" / name, whole)
    assert run_import(tmp_path / "s.zarr", tmp_path / "images").num_images == 2


def test_what_stands_behind_a_picture_does_no_harm(tmp_path):
    for k in range(2):
        write(tmp_path / f"images/a/{k}.jpg", encoded(Image.fromarray(picture(k)), "JPEG") + bytes(10_000))
    assert run_import(tmp_path / "s.zarr", tmp_path / "images").num_images == 2


def damaged_inside(pixels):
    """A PNG with a good header and a good end."""
    data = bytearray(png(pixels))
    data[100:140] = bytes(40)
    return bytes(data)


@pytest.mark.parametrize("name", ["s.zarr", "s.h5"])
def test_damage_inside_ends_the_import_and_the_way_out_that_it_names_works(tmp_path, name):
    contents = image_folder(tmp_path / "images")
    broken = sorted(contents)[:21]  # whatever block is first holds one
    for one in broken[1:]:
        write(tmp_path / "images" / one, damaged_inside(picture(9)))
    with pytest.raises(
        UsageError, match=r"can't be decoded \(.* such files in block 0\): import again with --skip-broken"
    ):
        run_import(tmp_path / name, tmp_path / "images", block_size=4)
    store = run_import(tmp_path / name, tmp_path / "images", block_size=4, skip_broken=True)
    assert same_images(store, [told for one, told in contents.items() if one not in broken[1:]])
    assert store.recipe["skipped"] == broken[1:] and not store.missing_blocks()


def test_damage_after_the_first_block_says_to_delete_the_store(tmp_path):
    contents = image_folder(tmp_path / "images")
    names = sorted(contents)
    last = names[import_order([contents[name][0] for name in names], 0)[-1]]
    write(tmp_path / "images" / last, damaged_inside(picture(9)))
    for options in ({}, {"skip_broken": True}):
        with pytest.raises(
            UsageError, match=rf"{last} of .* block 5\): delete .*s.zarr and import again with --skip-broken"
        ):
            run_import(tmp_path / "s.zarr", tmp_path / "images", block_size=4, **options)
    shutil.rmtree(tmp_path / "s.zarr")
    store = run_import(tmp_path / "s.zarr", tmp_path / "images", block_size=4, skip_broken=True)
    assert store.recipe["skipped"] == [last]


def test_a_long_header_is_read_whole(tmp_path):
    """An embedded profile of 200 kB stands before the size of a JPEG."""
    data = encoded(Image.fromarray(picture(1)), "JPEG", icc_profile=os.urandom(200_000))
    write(tmp_path / "images/a/1.jpg", data)
    store = run_import(tmp_path / "s.zarr", tmp_path / "images")
    assert np.array_equal(store.images[0], np.asarray(Image.open(io.BytesIO(data))))


def test_black_images_are_images(tmp_path):
    for k in range(4):
        write(tmp_path / f"images/a/{k}.png", png(np.zeros((8, 8, 3), np.uint8)))
    store = run_import(tmp_path / "s.zarr", tmp_path / "images")
    assert not store.missing_blocks() and not store.images[:].any() and not store.class_ids[:].any()


def test_links_are_followed_but_not_in_circles(tmp_path):
    image_folder(tmp_path / "images", classes=2, each=2)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/c0").symlink_to(tmp_path / "images/c0")
    (tmp_path / "images/c0/up").symlink_to(tmp_path / "images/c0")
    found = find_images(str(tmp_path / "linked"), Classes(), Silent())
    assert [file.name for file in found.files] == ["c0/001.png", "c0/deep/er/000.png"]


def test_a_file_that_shrinks_meanwhile_is_told(tmp_path):
    image_folder(tmp_path / "images", classes=1, each=1)
    (file,) = find_images(str(tmp_path / "images"), Classes(), Silent()).files
    write(tmp_path / "images" / file.name, b"x")
    with pytest.raises(UsageError, match="has become shorter"):
        read_bytes(file)


def bad_sources(root):
    """Sources that can't be imported, and a piece of the sentence for each."""
    image = png(picture(1))
    (root / "empty").mkdir(parents=True)
    write(root / "loose/a.png", image)
    write(root / "mixed/class_1_seed_0_num_0.png", image)
    write(root / "mixed/b.png", image)
    write(root / "both/c/a.png", image)
    write_tar(root / "both/a.tar", [("a.png", image), ("a.cls", b"1")])
    write(root / "file.zip", b"x")
    write(root / "no.tar", b"this is no tar file" * 100)
    write_tar(root / "nothing.tar", [("a.txt", b"1")])
    write_tar(root / "unlabelled.tar", [("a.png", image), ("b.png", image), ("b.cls", b"1")])
    write_tar(root / "words.tar", [("a.png", image), ("a.cls", b"dog")])
    write_tar(root / "twice.tar", [("a.png", image), ("a.jpg", image), ("a.cls", b"1")])
    write(root / "huge/class_99999999999_seed_0_num_0.png", image)
    write_tar(root / "cut.tar", [("a.png", image), ("a.cls", b"1"), ("b.png", image * 20)])
    data = (root / "cut.tar").read_bytes()
    (root / "cut.tar").write_bytes(data[:4000])
    return {
        "missing": "There is nothing to import at",
        "empty": "holds no images",
        "loose": "has images outside of class folders (a.png, 1 in all)",
        "mixed": "is ambiguous: class_1_seed_0_num_0.png is named like DM-KD's images",
        "both": "holds both images (c/a.png) and tar files (a.tar)",
        "file.zip": "is a file but not a .tar",
        "no.tar": "can't be read as a tar file",
        "nothing.tar": "hold no images",
        "unlabelled.tar": "a.png in .*unlabelled.tar has no class (1 images there have none)",
        "words.tar": "a.cls in .*words.tar must hold a class id",
        "twice.tar": "has two images (a.png and a.jpg)",
        "cut.tar": "can't be read as a tar file",
        "shard-{0..3}.tar": "4 of the 4 tar files of .* are missing",
        "shard-{3..0}.tar": "matches no file",
        "{a,b}.zip": "is not a .tar file",
        "huge": "class ids must be below",
    }


def test_bad_sources_get_one_sentence_and_no_store(tmp_path):
    for name, sentence in bad_sources(tmp_path).items():
        arguments = ["import", str(tmp_path / name), "--store", str(tmp_path / "s.zarr")]
        done = CliRunner().invoke(main, arguments)
        error = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        assert done.exit_code == 2 and len(error) == 1, (name, done.output)
        first, *rest = sentence.split(".*")
        assert first in error[0] and all(part in error[0] for part in rest), (name, error[0])
        assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("option", ["--size", "--block-size", "--workers", "--classes"])
def test_numbers_below_one_are_refused(tmp_path, option):
    image_folder(tmp_path / "images")
    done = CliRunner().invoke(
        main, ["import", str(tmp_path / "images"), "--store", str(tmp_path / "s.zarr"), option, "0"]
    )
    assert done.exit_code == 2 and f"{option} must be at least 1, not 0" in done.stderr


def test_only_an_import_goes_on_with_an_import(tmp_path, tiny_generator):
    image_folder(tmp_path / "images")
    filled_store(tmp_path / "s.zarr", num_images=16)
    with pytest.raises(UsageError, match="was not made by an import"):
        run_import(tmp_path / "s.zarr", tmp_path / "images")
    run_import(tmp_path / "t.zarr", tmp_path / "images")
    for more in ([], ["--generator", str(tiny_generator)]):
        done = CliRunner().invoke(main, ["generate", "--store", str(tmp_path / "t.zarr"), *more])
        assert done.exit_code == 2 and "was not made by a generator" in done.stderr


def dmkd(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_an_imported_store_is_labelled_shown_and_learned_from(tmp_path, tiny_teacher, other_teacher, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "images", classes=10, each=5, size=32)
    options = ["--block-size", 16, "--teacher", tiny_teacher, "--views", "rrc:2", "--device", "cpu"]
    shown = dmkd("import", "images", "--store", "s.zarr", *options)
    assert "50 of 50, 32x32, complete" in shown and "import (image folder" in shown and "tiny-resnet" in shown
    dmkd("label", "--store", "s.zarr", "--teacher", other_teacher, "--device", "cpu")
    facts = json.loads(dmkd("inspect", "s.zarr", "--json"))
    assert facts["complete"] and sorted(facts["label_sets"]) == ["tiny-efficientnet", "tiny-resnet"]
    assert facts["label_sets"]["tiny-resnet"]["views"] == 3 and facts["recipe"]["source"] == "import"
    options = ["--labels", "tiny-resnet", "--student", "test_resnet", "--epochs", 1, "--device", "cpu"]
    dmkd("train-student", "--store", "s.zarr", *options, "--out", "student")
    result = json.loads(dmkd("evaluate", "student/student", "--data", "s.zarr", "--device", "cpu", "--json"))
    assert result["images"] == 50


def test_a_teacher_that_does_not_fit_is_refused_before_anything_is_written(tmp_path, tiny_teacher):
    image_folder(tmp_path / "images", classes=3, size=32)
    done = CliRunner().invoke(
        main, ["import", str(tmp_path / "images"), "--store", str(tmp_path / "s.zarr"), "--teacher", str(tiny_teacher)]
    )
    assert done.exit_code == 2 and "knows 10 classes" in done.stderr
    assert not (tmp_path / "s.zarr").exists()


def test_views_without_a_teacher_are_refused(tmp_path):
    image_folder(tmp_path / "images")
    done = CliRunner().invoke(main, ["import", str(tmp_path / "images"), "--store", "s.zarr", "--views", "rrc:2"])
    assert done.exit_code == 2 and "give a --teacher too" in done.stderr


@pytest.mark.parametrize("suffix", ["bmp", "tif", "ppm"])
def test_tars_hold_every_kind_of_image_that_folders_do(tmp_path, suffix):
    data = encoded(Image.fromarray(picture(1)), "TIFF" if suffix == "tif" else suffix.upper())
    write_tar(tmp_path / "a.tar", [(f"0.{suffix}", data), ("0.cls", b"0")])
    store = run_import(tmp_path / "s.zarr", tmp_path / "a.tar")
    assert np.array_equal(store.images[0], picture(1))
