"""Learning from some rounds alone, and what is noted of the rounds that were learnt from."""

import json
import tarfile

import numpy as np
import pytest
from conftest import filled_store, new_store
from stores_with_rounds import add_round, fill, store_with_rounds

import dmkd
from dmkd.export import ExportOptions, export_store
from dmkd.runtime.progress import Silent
from dmkd.stores import MismatchError, UsageError, open_store
from dmkd.stores.tagged_store import open_tagged
from dmkd.stores.tags import write_tag
from dmkd.training.conditions import Axes, plan_runs
from dmkd.training.sources import described


@pytest.fixture
def store(tmp_path):
    """Block 3 holds images of rounds 0 and 1; block 5 begins in round 2."""
    return open_store(store_with_rounds(tmp_path / "s.zarr").path)


def loader(store, select=None):
    return dmkd.loader(store, "teacher", batch_size=16, device="cpu", select=select)


def learnt(store, select):
    return np.sort(np.concatenate([batch.ids for batch in loader(store, select).epoch(0)])).tolist()


@pytest.mark.parametrize(
    ("select", "ids"),
    [
        ("round <= 1", range(80)),
        ("round == 1", range(60, 80)),
        ("round != 1", [*range(60), *range(80, 100)]),
        ("score > 9", range(64, 80)),  # nobody gave the others a score
        ("score > 0 or round >= 0", range(60, 80)),
    ],
)
def test_rounds_and_scores_are_columns_to_select_by(store, select, ids):
    assert learnt(store, select) == list(ids)


def test_what_has_no_score_is_not_selected_by_its_absence(store):
    with pytest.raises(UsageError, match="leaves none of the 100 images"):
        loader(store, "not score > 0")


def noted(store, select=None):
    return described(loader(store, select))["store"]["identity"]


def test_a_run_notes_the_rounds_that_it_learnt_from(store):
    first, second = (one.identity for one in store.rounds)
    assert noted(store) == noted(store, "round == 2") == second == store.lineage
    assert noted(store, "round <= 1") == first and noted(store, "round == 0") == store.identity
    store.add_round({"start": 100, "images": 20})
    assert noted(store) == second, "there are no images of the new round yet"
    store.grow(120)
    fill(store)
    assert noted(store) == store.rounds[-1].identity and noted(store, "round <= 1") == first


def test_a_tag_has_the_rounds_that_there_were(store):
    write_tag(store, "v1")
    before = store.lineage
    add_round(store, 20)
    tagged = open_tagged(store.path, "v1")
    assert (len(tagged.rounds), tagged.lineage, noted(tagged)) == (2, before, before)


def test_a_tag_of_before_the_rounds_has_none(tmp_path):
    store = fill(new_store(tmp_path / "s.zarr", num_images=60))
    assert "rounds" not in write_tag(store, "v0").manifest
    add_round(store, 40)
    tagged = open_tagged(store.path, "v0")
    assert tagged.rounds == [] and tagged.columns == {} and noted(tagged) == store.identity


def test_without_rounds_what_is_noted_is_the_store(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    assert noted(store) == store.identity == store.lineage == store.lineage_of(np.arange(3))


def test_a_comparison_notes_the_same(store):
    runs = plan_runs(
        Axes((store.path,), vary={"select": (None, "round <= 1")}), {"epochs": 1, "student": "test_resnet"}
    )
    assert [run.description["store"]["identity"] for run in runs] == [noted(store), noted(store, "round <= 1")]


# Exports


def export(store, folder, **options):
    return export_store(store, str(folder), ExportOptions("webdataset", **options), Silent())


def columns_in(folder):
    with tarfile.open(folder / "shard-000000.tar") as tar:
        files = [tar.extractfile(name).read() for name in tar.getnames() if name.endswith(".json")]
    return [json.loads(file, parse_constant=lambda word: pytest.fail(word))["columns"] for file in files]


def test_an_export_has_null_where_there_is_no_score(store, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    export(store, tmp_path / "tars", select="round >= 1")
    found = columns_in(tmp_path / "tars")
    assert found[0] == {"round": 1.0, "score": 60 / 7} and found[-1] == {"round": 2.0, "score": None}
    export_store(store, str(tmp_path / "rows"), ExportOptions("parquet"), Silent())
    table = parquet.read_table(next((tmp_path / "rows").glob("*.parquet"))).to_pydict()
    assert table["column_score"] == [None] * 60 + [i / 7 for i in range(60, 80)] + [None] * 20
    assert table["column_round"] == [0.0] * 60 + [1.0] * 20 + [2.0] * 20


def test_an_export_goes_on_with_the_same_rounds_alone(store, tmp_path):
    other = fill(new_store(tmp_path / "other.zarr", num_images=60))
    add_round(other, 40)
    assert other.identity == store.identity
    export(store, tmp_path / "all", columns="none")
    export(store, tmp_path / "some", columns="none", select="round <= 1")
    for folder, select in ((tmp_path / "all", None), (tmp_path / "some", "round <= 1")):
        with pytest.raises(MismatchError, match="store"):
            export(other, folder, columns="none", select=select)
    add_round(store, 20)
    assert export(store, tmp_path / "some", columns="none", select="round <= 1").written == 0
    assert export(store, tmp_path / "all", columns="none").images == 120, "and those of a further one are added"
    assert export(store, tmp_path / "all", columns="none").written == 0
