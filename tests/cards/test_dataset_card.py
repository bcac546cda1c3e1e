"""The data set's card: valid for the hub, true, kept in the store, harmless to it."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from conftest import block_arrays, filled_store, new_store
from huggingface_hub import DatasetCard

from dmkd.cards.dataset_card import card_licence, card_text, write_card
from dmkd.cards.licences import GENERATOR_LICENCES, front_matter, generator_licence
from dmkd.cards.model_card import model_card
from dmkd.cli.main import main
from dmkd.export import ExportOptions, export_store
from dmkd.runtime.progress import Silent
from dmkd.stores import create_store, open_store, opinions
from dmkd.stores.showing.facts import store_facts

DIT = "facebook/DiT-XL-2-256"


def dmkd(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def store_of(path, source, **recipe):
    return create_store(
        str(path),
        recipe={"generator": source, **recipe},
        num_images=4,
        image_shape=(8, 8, 3),
        class_names=["a", "b"],
        block_size=4,
        source=source,
    )


def test_the_card_is_kept_in_the_store_and_zarr_finds_nothing_odd_there(place):
    store = filled_store(place.path)
    identities = store.identity, store.views["views"].identity, store.labels["teacher"].identity
    text = write_card(store)
    again = open_store(place.path)
    assert again.card == {"readme": text, "licence": "unknown"}
    assert identities == (again.identity, again.views["views"].identity, again.labels["teacher"].identity)
    if Path(place.path).is_dir():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            group = zarr.open_group(place.path, mode="r")
            assert "card" in dict(group.members()) and dict(group.members(max_depth=None))
        assert group["card"].attrs["readme"] == text
    done = dmkd("verify", place.path)
    assert done.exit_code == 0, done.output


def test_the_hub_reads_its_front_matter(tmp_path):
    store = filled_store(tmp_path / "imnet.zarr")
    card = DatasetCard(card_text(store, "cc-by-nc-4.0"))
    assert card.data.license == "cc-by-nc-4.0" and card.data.size_categories == ["n<1K"]
    assert card.data.task_categories == ["image-classification"] and card.data.pretty_name == "imnet.zarr"
    assert card.text.lstrip().startswith("# imnet.zarr")


def test_what_the_card_says_is_what_the_store_holds(tmp_path):
    store = new_store(tmp_path / "s.zarr", recipe={"generator": "none", "seed": 17, "note": "a | b"})
    for block in (0, 1):
        arrays = block_arrays(store, block)
        arrays["labels"]["teacher"][1][:, 0] = arrays["class_ids"]
        store.write_block(block, **(arrays if block == 0 else {**arrays, "labels": {}}))
    text = card_text(store, "mit")
    assert "32 RGB images of 8x8 pixels, 10 classes" in text and "32 of 100: 68 have not been made yet" in text
    row = next(line for line in text.splitlines() if line.startswith("| teacher |"))
    assert [cell.strip() for cell in row.split("|")][6:8] == ["16", "100.0%"]
    assert "| `seed` | 17 |" in text and "| `note` | a \\| b |" in text
    assert "6 of 7 blocks have no labels" in text and f"`{store.identity}`" in text


@pytest.mark.parametrize("most", [3, 400])
def test_the_card_and_inspect_take_their_averages_from_the_same_blocks(tmp_path, monkeypatch, most):
    monkeypatch.setattr(opinions, "SAMPLED_BLOCKS", most)
    store = filled_store(tmp_path / "s.zarr")
    told = store_facts(store)["label_sets"]["teacher"]
    text = card_text(store, "mit")
    row = next(line for line in text.splitlines() if line.startswith("| teacher |"))
    numbers = [f"{told['agreement']:.1%}", f"{told['p_class']:.3f}", f"{told['entropy']:.3f}"]
    assert [cell.strip() for cell in row.split("|")][7:10] == numbers and f"at most {most} labelled blocks" in text
    assert (told["quality_images"] < 100) == (most == 3)


def test_the_code_on_the_card_runs(tmp_path, monkeypatch):
    store = filled_store(tmp_path / "imnet.zarr")
    monkeypatch.chdir(tmp_path)
    codes = [part.split("```")[0] for part in card_text(store, "mit").split("```python\n")[1:]]
    assert len(codes) == 2
    for code in codes:
        found: dict = {}
        exec(code, found)
    assert (found["store"].images[:] == store.images[:]).all()
    assert (np.asarray(zarr.open("imnet.zarr", mode="r")["images"][:64]) == store.images[:64]).all()


@pytest.mark.parametrize(
    ("source", "licence"), [(DIT, "cc-by-nc-4.0"), (f"{DIT}@main", "cc-by-nc-4.0"), ("digits", "apache-2.0")]
)
def test_the_licence_of_a_known_generator(tmp_path, source, licence):
    assert generator_licence(store_of(tmp_path / "s.zarr", source)) == licence


def test_the_licence_on_a_model_card_beside_the_weights_or_in_the_hubs_cache(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    store = store_of(tmp_path / "s.zarr", str(tmp_path / "mine"))
    assert generator_licence(store) == "unknown"
    (tmp_path / "mine/README.md").write_text("---\nlicense: openrail++\n---\n# Mine\n")
    assert generator_licence(store) == "openrail++"
    (tmp_path / "mine/README.md").write_text("---\nlicense: other\nlicense_name: my-terms\n---\n")
    assert generator_licence(store) == "my-terms"
    (tmp_path / "mine/README.md").write_text("---\nlicense: [broken\n---\n")
    assert generator_licence(store) == "unknown"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(tmp_path / "cached.md"))
    (tmp_path / "cached.md").write_text("---\nlicense: mit\n---\n")
    assert generator_licence(store_of(tmp_path / "t.zarr", "someone/dit")) == "mit"


def test_imported_images_have_no_licence_that_dmkd_knows(tmp_path):
    store = create_store(
        str(tmp_path / "s.zarr"),
        recipe={"generator": None, "source": "import", "files": 4, "layout": "dm-kd"},
        num_images=4,
        image_shape=(8, 8, 3),
        class_names=["a"],
    )
    text = card_text(store, card_licence(store))
    assert "license: unknown" in text and "The licence of the images is not known to dmkd" in text
    assert "4 existing image files" in text and "synthetic" not in text


def test_a_licence_that_the_hub_does_not_list_is_named_beside_other():
    assert front_matter("CC-BY-4.0") == {"license": "cc-by-4.0"}
    assert front_matter("My Terms 1.0") == {"license": "other", "license_name": "My Terms 1.0"}


def test_a_licence_that_was_said_stays_and_goes_with_exports(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    done = dmkd("card", store.path, "--licence", "cc-by-4.0")
    assert done.exit_code == 0 and DatasetCard(done.stdout).data.license == "cc-by-4.0"
    assert dmkd("card", store.path).stdout == done.stdout == open_store(store.path).card["readme"]
    export_store(open_store(store.path), str(tmp_path / "out"), ExportOptions("webdataset", images=30), Silent())
    card = DatasetCard((tmp_path / "out/README.md").read_text())
    assert card.data.license == "cc-by-4.0" and "`webdataset`: 30 images" in card.text
    assert card.data.to_dict()["configs"][0]["data_files"] == [{"split": "train", "path": "*.tar"}]


def test_generate_and_label_write_the_card(tmp_path, tiny_generator, tiny_teacher, other_teacher):
    path = tmp_path / "s.zarr"
    made = dmkd(
        "generate", "--store", path, "--generator", tiny_generator, "--teacher", tiny_teacher, "--images", 16,
        "--block-size", 16, "--steps", 2, "--sampler", "ddim", "--views", "rrc:1", "--device", "cpu",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    before = open_store(path).card["readme"]
    assert "| `sampler` | ddim |" in before and "| tiny-resnet |" in before and str(tmp_path) not in before
    assert dmkd("label", "--store", path, "--teacher", other_teacher, "--device", "cpu").exit_code == 0
    assert "| tiny-efficientnet |" in open_store(path).card["readme"]


@pytest.mark.parametrize("generator", GENERATOR_LICENCES)
def test_data_sets_and_students_of_a_generator_name_the_same_licence(tmp_path, generator):
    store = store_of(tmp_path / "s.zarr", generator)
    recipe = {"generator": generator}
    summary = {
        "training": {"student": "resnet18", "epochs": 1},
        "store": {"identity": "i", "images": 1, "recipe": recipe},
        **{key: {} for key in ("teachers", "views", "execution", "versions")},
        "parameters": 1,
        "agreement": 1.0,
        "evaluated_on": None,
        "top1": None,
        "hardware": "cpu",
    }
    licence = generator_licence(store)
    assert f"is under {licence}" in model_card(summary, "student") and f"**{licence}**" in card_text(store, licence)
