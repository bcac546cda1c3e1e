"""dmkd inspect: sizes are those of the files, statistics those of the quality, and nothing that is broken stops it."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import block_arrays, filled_store, new_store
from hypothesis import given, settings
from hypothesis import strategies as st

from dmkd.cards.dataset_card import card_text
from dmkd.cli.main import main
from dmkd.cli.summary import bars
from dmkd.stores import open_store, opinions, parse_codec
from dmkd.stores.opinions import Opinions, sample_blocks, statistics
from dmkd.stores.showing.facts import store_facts
from dmkd.stores.showing.html_card import html_card


def dmkd(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_sizes_are_those_of_the_files(place):
    store = filled_store(place.path)
    facts = store_facts(open_store(place.path))
    sizes = {name: len(content) for name, content in place.chunks().items()}
    for node, array in facts["arrays"].items():
        own = {name: size for name, size in sizes.items() if name.rsplit("/", 1)[0] == node}
        assert array["bytes"] == sum(own.values()) and array["blocks"] == len(own) == store.num_blocks
    assert facts["bytes"] == sum(sizes.values())
    assert facts["label_sets"]["teacher"]["bytes_a_view"] == round(facts["label_sets"]["teacher"]["bytes"] / 200, 2)


def test_statistics_are_those_of_the_stored_quality(place):
    filled_store(place.path)
    store = open_store(place.path)
    quality, class_ids = store.labels["teacher"].quality[:], store.class_ids[:]
    told = store_facts(store)["label_sets"]["teacher"]
    agrees = quality[:, 0] == class_ids
    assert told["quality_images"] == 100 and told["statistics"]["blocks_read"] == 7
    assert told["agreement"] == pytest.approx(agrees.mean())
    assert told["p_class"] == pytest.approx(quality[:, 1].mean(), rel=1e-6)
    assert told["statistics"]["entropy"]["quantiles"]["0.5"] == pytest.approx(np.median(quality[:, 2]), rel=1e-6)
    assert sum(told["statistics"]["p_class"]["histogram"]["counts"]) == 100
    of_class = {c: agrees[class_ids == c].mean() for c in range(10)}
    best, worst = (told["statistics"]["classes"]["agreement"][end] for end in ("best", "worst"))
    assert [one["value"] for one in best] == sorted(of_class.values(), reverse=True)[:3]
    assert [one["value"] for one in worst] == sorted(of_class.values())[:3]
    assert all(of_class[one["class_id"]] == one["value"] for one in best + worst)


def test_a_large_store_is_sampled_and_says_so(tmp_path, monkeypatch):
    filled_store(tmp_path / "s.zarr")
    monkeypatch.setattr(opinions, "SAMPLED_BLOCKS", 3)
    result = dmkd("inspect", tmp_path / "s.zarr")
    assert "from 3 of 7 blocks" in result.stdout, result.output
    assert dmkd("inspect", tmp_path / "s.zarr").stdout == result.stdout
    whole = dmkd("inspect", tmp_path / "s.zarr", "--all").stdout
    assert "in 100 images" in whole and " blocks\n" not in whole.split("sees")[1].splitlines()[0]


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(1, 50), st.integers(0, 5))
def test_a_sample_is_spread_evenly(number, count, seed):
    blocks = list(range(0, 3 * number, 3))
    sample = sample_blocks(blocks, count, seed)
    assert len(sample) == min(count, number) and sample == sorted(set(sample)) and set(sample) <= set(blocks)
    for place, block in enumerate(sample if number > count else ()):
        assert abs(block / 3 - (place + 0.5) * number / count) <= number / count / 2 + 1
    assert sample == sample_blocks(blocks, count, seed)


def test_a_store_without_images_is_told(place):
    new_store(place.path)
    result = dmkd("inspect", place.path)
    assert result.exit_code == 0, result.output
    assert "0 of 100, 8x8, 7 of 7 blocks missing" in result.stdout and "sees" not in result.stdout
    facts = json.loads(dmkd("inspect", place.path, "--json").stdout)
    assert facts["images_made"] == 0 and facts["bytes"] == 0 and not facts["complete"]
    assert facts["label_sets"]["teacher"]["bytes_a_view"] is None


def test_a_store_that_is_half_made_tells_what_is_there(tmp_path):
    store = new_store(tmp_path / "s.zarr")
    for block in (0, 6):
        store.write_block(block, **block_arrays(store, block))
    facts = store_facts(open_store(store.path))
    assert facts["images_made"] == 16 + 4 and facts["missing_blocks"] == [1, 2, 3, 4, 5]
    assert facts["label_sets"]["teacher"]["quality_images"] == 20
    per_view = facts["label_sets"]["teacher"]["bytes"] / 40
    assert facts["label_sets"]["teacher"]["bytes_a_view"] == pytest.approx(per_view, abs=0.01)


@pytest.mark.parametrize("node", ["labels/teacher/quality", "labels/teacher/checks", "class_ids", "checks"])
@pytest.mark.parametrize("harm", ["flip", "swap", "gone"])
def test_damage_on_the_way_is_one_line_and_no_failure(place, node, harm):
    filled_store(place.path)
    name = next(name for name in place.chunks() if name.startswith(f"{node}/c.2"))
    if harm == "flip":
        content = bytearray(place.read(name))
        content[5] ^= 1
        place.write(name, bytes(content))
    elif harm == "swap":
        place.write(name, place.read(name.replace("c.2", "c.3")))
    else:
        open_store(place.path).chunks.delete(node, 2)
    result = dmkd("inspect", place.path)
    assert result.exit_code == 0, result.output
    assert "Damaged: " in result.stdout and "in 84 images" in result.stdout
    assert len(json.loads(dmkd("inspect", place.path, "--json").stdout)["damaged"]) == 1


def test_a_label_set_that_was_begun_has_no_opinions_yet(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    facts = {"teacher": {"name": "k", "architecture": "k"}, "source": "k", "view_set": "views", "num_classes": 10}
    store.add_label_set("k", codec=parse_codec("klt:0.5"), **facts)
    assert len(store.labels["k"].quality_table()) == 0 and not store.labels["k"].has_block(0)
    assert "none yet" in html_card(store, 60.0) and "error" not in html_card(store, 60.0).lower()
    assert "| k |" in card_text(store, "mit")


def test_constants_that_are_damaged_are_one_line_and_no_failure(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    facts = {"teacher": {"name": "k", "architecture": "k"}, "source": "k", "view_set": "views", "num_classes": 10}
    store.add_label_set("k", codec=parse_codec("klt:0.5"), **facts)
    assert store_facts(open_store(store.path))["label_sets"]["k"]["fitted"] is False
    assert dmkd("inspect", store.path).exit_code == 0
    sample = np.random.default_rng(0).normal(size=(200, 10)).astype(np.float32)
    store.fit_label_set("k", parse_codec("klt:0.5").fit(10, sample=sample))
    assert store_facts(open_store(store.path))["label_sets"]["k"]["fitted"] is True
    basis = next((tmp_path / "s.zarr/labels/k/constants/basis").glob("c.*"))
    basis.write_bytes(basis.read_bytes()[:-1] + b"x")
    result = dmkd("inspect", store.path)
    assert result.exit_code == 0, result.output
    assert "The constants of label set 'k'" in " ".join(result.stdout.split())


def test_runs_are_told_with_their_rate(tmp_path, monkeypatch):
    from dmkd.stores import run_log

    monkeypatch.setattr(run_log, "BLOCKS_A_PART", 3)
    store = filled_store(tmp_path / "s.zarr")
    with store.log_run(command="generate") as log:
        workers = [log.add_worker({"host": "a", "hardware": "H100"}), log.add_worker({"host": "b", "hardware": "H100"})]
        for block in range(7):
            log.add_block(block, workers[block % 2], 1.0, 0.1)
    with store.log_run(command="label") as log:
        log.add_worker({"host": "a"})
    generated, labelled = store_facts(store)["runs"]
    assert generated["blocks"] == 7 and generated["workers"] == 2 and generated["hardware"] == ["H100"]
    assert generated["hosts"] == ["a", "b"] and generated["outcome"] == "done" and generated["seconds"] >= 0
    assert labelled["blocks"] == 0 and labelled["seconds"] is None
    assert "2 x H100" in dmkd("inspect", store.path).stdout
    shutil.rmtree(tmp_path / "s.zarr/runs")
    assert dmkd("inspect", store.path).exit_code == 0


def test_every_block_is_read_once_and_no_image(tmp_path, monkeypatch):
    """What makes it quick: no image is touched, and of the small arrays each chunk is read once."""
    store = open_store(filled_store(tmp_path / "s.zarr").path)
    monkeypatch.setattr(store.chunks, "decoded", lambda *_: pytest.fail("read through Zarr"))
    assert len(store.labels["teacher"].opinions(range(7)).ids) == 100


def test_bars_tell_nothing_from_little():
    assert bars([0, 1, 1000]) == "▁▂█" and bars([0, 0]) == "▁▁"


def test_values_beyond_the_limits_stay_in_the_histogram():
    quality = np.array([[1, 1.0000001, 2.4]], np.float32)
    told = statistics(Opinions(np.array([0]), np.array([1], np.int32), quality), ["a", "b"])
    assert told["p_class"]["histogram"]["counts"][-1] == 1 and told["entropy"]["histogram"]["counts"][-1] == 1
    assert [one["name"] for one in told["classes"]["agreement"]["best"]] == ["b"]
