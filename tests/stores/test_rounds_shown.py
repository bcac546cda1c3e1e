"""What is shown of rounds: by inspect, on the cards and on contact sheets."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import filled_store, new_store
from stores_with_rounds import add_round, arrays_of, fill, store_with_rounds

from dmkd.cards.dataset_card import card_text
from dmkd.cli.main import main
from dmkd.stores import DamagedChunkError, StoreError, columns, open_store, opinions
from dmkd.stores.showing.contact_sheet import image_tiles
from dmkd.stores.showing.facts import store_facts
from dmkd.stores.showing.html_card import html_card
from dmkd.stores.showing.picks import pick_by_column, pick_by_round


def dmkd(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(store_with_rounds(tmp_path_factory.mktemp("rounds") / "s.zarr").path)


def test_facts_of_rounds_are_those_of_their_own_images(store):
    before, first, second = store_facts(store)["rounds"]
    agrees = store.labels["teacher"].quality[:][:, 0] == store.class_ids[:]
    for one, ids in ((before, range(60)), (first, range(60, 80)), (second, range(80, 100))):
        assert (one["start"], one["images"]) == (ids.start, len(ids))
        assert one["agreement"] == pytest.approx(agrees[ids.start : ids.stop].mean())
    assert (before["identity"], before["student"], before["mean_score"]) == (store.identity, None, None)
    assert first["student"]["architecture"] == "resnet18" and first["identity"] == store.rounds[0].identity
    assert (first["labels"], first["score"], first["candidates"], first["candidate_steps"]) == ("teacher", "kl:4", 4, 5)
    assert first["mean_score"] == pytest.approx(np.arange(60, 80).mean() / 7)
    assert first["class_images"] == [1, 3] and first["class_guidance"] == [1.0, 2.5]
    assert (second["student"], second["score"], second["mean_score"]) == (None, None, None)


def test_json_has_no_nan_and_counts_the_bytes_of_columns_and_students(store):
    shown = dmkd("inspect", store.path, "--json")
    facts = json.loads(shown.stdout, parse_constant=lambda word: pytest.fail(word))
    assert facts["lineage"] == store.lineage and len(facts["rounds"]) == 3
    assert facts["columns"]["score"]["smallest"] == pytest.approx(60 / 7) and facts["columns"]["score"]["of_rounds"]
    assert facts["arrays"]["columns/score"]["blocks"] == 7 and facts["arrays"]["rounds/1/student"]["bytes"] > 20


def test_inspect_has_a_line_for_each_round(store):
    shown = dmkd("inspect", store.path).stdout
    table = shown[shown.index("Rounds\n") : shown.index("Columns\n")]
    for words in ("resnet18 ", "kl:4", "no student", "best of 4 at 5 steps, 1 to 3 of a class, guidance 1 to 2.5"):
        assert words in " ".join(table.split()), shown
    assert f"after 2 rounds {store.lineage[:16]}" in shown


def test_of_a_large_store_each_round_is_sampled(tmp_path, monkeypatch):
    store = fill(new_store(tmp_path / "s.zarr", num_images=960, num_views=1))
    store.add_round({"start": 960, "images": 640, "score": "kl:4"})
    store.grow(1600)
    for block in store.missing_blocks():
        columns_of_round = {"round": np.ones(16), "score": np.full(16, 2.0)}
        store.write_block(block, **{**arrays_of(store, block), "columns": columns_of_round})
    monkeypatch.setattr(opinions, "SAMPLED_BLOCKS", 10)
    read = []
    monkeypatch.setattr(
        columns.ColumnRows,
        "block",
        lambda rows, block, own=columns.ColumnRows.block: read.append(block) or own(rows, block),
    )
    before, first = store_facts(store)["rounds"]
    assert (before["blocks_read"], before["blocks_made"], first["blocks_read"], first["blocks_made"]) == (5, 60, 5, 40)
    assert first["mean_score"] == 2 and len(read) <= 25
    assert "≈ 2" in dmkd("inspect", store.path).stdout
    assert store_facts(store, every_block=True)["rounds"][1]["blocks_read"] == 40


def test_damage_in_a_column_is_one_line_and_no_failure(tmp_path):
    store = store_with_rounds(tmp_path / "s.zarr")
    chunk = tmp_path / "s.zarr/columns/score/c.4.0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    result = dmkd("inspect", store.path)
    assert result.exit_code == 0 and "Damaged: " in result.stdout, result.output
    (first,) = [one for one in store_facts(store)["rounds"] if one["number"] == 1]
    assert first["mean_score"] == pytest.approx(np.arange(60, 64).mean() / 7), "of the block that is sound"
    with pytest.raises(DamagedChunkError):
        card_text(store, "mit")


def test_a_round_that_has_no_images_yet_is_told(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=60)
    store.add_round({"start": 60, "images": 40})
    assert store_facts(store)["rounds"][1]["agreement"] is None
    store.grow(100)
    _, first = store_facts(store)["rounds"]
    assert (first["images"], first["blocks_made"], first["agreement"]) == (40, 0, None)
    assert dmkd("inspect", store.path).exit_code == 0
    fill(store)
    assert store_facts(store)["rounds"][1]["blocks_made"] == 4


def test_cards_have_a_line_for_each_round(store):
    card, text = html_card(store, 60.0), card_text(store, "mit")
    rows = [line for line in text[text.index("## Rounds") :].splitlines() if line.startswith("| ")][2:]
    assert [row.split("|")[2].strip() for row in rows] == ["60", "20", "20"]
    for words in ("resnet18 ", "best of 4 at 5 steps", "kl:4"):
        assert words in card and words in rows[1]
    assert "no student" in card


def test_without_rounds_nothing_is_said_of_them(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    assert store_facts(store)["rounds"] == []
    shown = dmkd("inspect", store.path).stdout + html_card(store, 60.0) + card_text(store, "mit")
    assert "Rounds" not in shown and ">round<" not in shown and " round" not in shown.replace(" rounds (", ""), shown


def test_a_sheet_has_a_row_of_each_round_and_its_scores(store, tmp_path):
    chosen = pick_by_round(store, 3)
    assert {number: ids.tolist() for number, ids in chosen.items()} == {0: [0, 1, 2], 1: [60, 61, 62], 2: [80, 81, 82]}
    lines = [
        [line.text for line in tile.lines] for tile in image_tiles(store, [60, 80], None, column=store.columns["score"])
    ]
    assert lines == [["#60", "score 8.571"], ["#80"]]
    result = dmkd("view", store.path, "--by", "round", "--out", tmp_path / "sheet.png")
    assert result.exit_code == 0 and (tmp_path / "sheet.png").exists(), result.output


def test_a_sheet_of_more_than_fits_is_refused(tmp_path):
    store = fill(new_store(tmp_path / "s.zarr", num_images=300))
    add_round(store, 300)
    result = dmkd("view", store.path, "--by", "round", "--count", "250", "--out", tmp_path / "sheet.png")
    assert result.exit_code == 2 and "500 images are too many" in result.output


def test_rows_are_of_the_images_that_are_there(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=60)
    store.add_round({"start": 60, "images": 40})
    store.grow(100)
    assert (
        list(pick_by_round(store, 3)) == [0]
        and dmkd("view", store.path, "--by", "round", "--out", tmp_path / "sheet.png").exit_code == 0
    )


def test_images_without_a_score_are_left_out_where_it_orders_them(store, tmp_path):
    ids, among = pick_by_column(store, store.columns["score"], 5)
    assert among == 20 and ids.tolist() == [60, 65, 70, 74, 79]
    assert dmkd("view", store.path, "--by", "score", "--out", tmp_path / "sheet.png").exit_code == 0


def test_of_scores_that_nobody_gave_there_is_nothing_to_show(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=60)
    store.add_round({"start": 60, "images": 40})
    with pytest.raises(StoreError, match="no numbers in column score"):
        pick_by_column(store, store.columns["score"], 5)


def test_without_rounds_round_is_a_column_or_nothing(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    result = dmkd("view", store.path, "--by", "round", "--out", tmp_path / "sheet.png")
    assert result.exit_code == 2 and "has no rounds" in result.output
    store.add_column("round", np.arange(100.0))
    assert dmkd("view", store.path, "--by", "round", "--out", tmp_path / "sheet.png").exit_code == 0
