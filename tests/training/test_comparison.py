"""The table of a comparison: what is chosen by what, and how conditions differ from a baseline."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from test_compare import make_store

from dmkd.cli.commands.compare import parse_baseline
from dmkd.cli.main import main
from dmkd.compare import make_runs
from dmkd.runtime.progress import Silent
from dmkd.stores import UsageError
from dmkd.training.comparison import check_baseline, table
from dmkd.training.conditions import Axes, plan_runs

FAST = {"epochs": 1, "batch_size": 32, "lr": 0.01, "optimizer": "sgd", "student": "test_resnet"}


def lines_of(out):
    return (out / "results.jsonl").read_text().splitlines()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    return [
        make_store(folder / name, guidance=g, seed=s).path for name, g, s in (("g1.zarr", 1.0, 1), ("g2.zarr", 2.0, 2))
    ]


def runs_of(stores, **axes):
    options = {key: value for key, value in FAST.items() if key != "student"}
    return plan_runs(Axes(tuple(stores), labels=("teacher",), students=("test_resnet",), **axes), options)


def summaries_of(runs, top1, halves=None, other=None):
    """``top1``: a function of a run."""

    def measured(value, of_halves):
        return {
            "top1": value, "top1_halves": of_halves, "calibration_error": 0.1, "agreement_with_teacher": 0.5,
        }  # fmt: skip

    found = {}
    for run in runs:
        sets = {"v": measured(top1(run), halves(run) if halves else [top1(run)] * 2)}
        if other:
            sets["w"] = measured(other(run), [0.0, 0.0])
        found[run.name] = {"measured": sets, "images_per_second": 1.0}
    return found


def test_a_draw_is_the_next_so_many_images_and_has_a_folder_of_its_own(two):
    runs = runs_of(two[:1], images=(16,), draws=3, seeds=(0, 1))
    assert [run.recipe.select for run in runs[::2]] == [
        "image_id < 16", "image_id >= 16 and image_id < 32", "image_id >= 32 and image_id < 48",
    ]  # fmt: skip
    assert len({run.name for run in runs}) == 6 and len({str(run.condition) for run in runs}) == 1
    assert runs[0].name == runs_of(two[:1], images=(16,))[0].name, "the first draw is what there was before draws"
    (row,) = table(runs, summaries_of(runs, lambda run: 0.5 + 0.1 * run.draw), ["v"])
    assert (row["draws"], row["seeds"], row["top1"]) == (3, 2, pytest.approx(0.6))


def test_draws_that_there_are_not_are_refused(two):
    with pytest.raises(UsageError, match="--images 30 --draws 3: .* has 64 images"):
        runs_of(two[:1], images=(30,), draws=3)
    with pytest.raises(
        UsageError, match="--draws takes other images of the same number each time: say how many with --images"
    ):
        runs_of(two[:1], draws=2)


def test_each_row_is_compared_with_the_one_that_is_else_the_same(two):
    runs = runs_of(two, images=(16, 32), draws=2, seeds=(0, 1))
    gain = {16: 0.05, 32: -0.02}

    def top1(run):
        better = gain[run.condition["images"]] if run.condition["store"] == "g2" else 0.0
        spread = 0.001 * run.draw if run.condition["store"] == "g2" else 0.0
        return 0.5 + 0.1 * run.draw + 0.03 * run.seed + better + spread

    rows = table(runs, summaries_of(runs, top1), ["v"], baseline={"store": "g1"})
    found = {(row["store"], row["images"]): row for row in rows}
    assert all(found["g1", images]["difference"] is None for images in gain), "the baseline itself"
    for images, difference in gain.items():
        row = found["g2", images]
        assert row["difference"] == pytest.approx(difference + 0.0005) and row["differs"], "what is shared drops out"
        # 12.7062 standard errors below: two draws that differ by .001.
        assert row["difference_low"] == pytest.approx(difference + 0.0005 - 12.7062 * 0.0005, abs=1e-6)


def test_an_interval_that_holds_zero_is_not_marked(two):
    runs = runs_of(two, seeds=(0, 1, 2))
    noise = {("g1", 0): 0.5, ("g1", 1): 0.6, ("g1", 2): 0.7, ("g2", 0): 0.55, ("g2", 1): 0.55, ("g2", 2): 0.75}
    rows = table(
        runs, summaries_of(runs, lambda run: noise[run.condition["store"], run.seed]), ["v"], baseline={"store": "g1"}
    )
    (row,) = [row for row in rows if row["difference"] is not None]
    assert row["difference"] == pytest.approx(0.05 / 3) and row["differs"] is False


def test_chosen_by_one_half_and_reported_on_the_other(two):
    runs = runs_of(two)
    halves = {"g1": [0.9, 0.1], "g2": [0.2, 0.8]}
    rows = table(
        runs, summaries_of(runs, lambda run: 0.5, lambda run: halves[run.condition["store"]]), ["v"], choose_on="half"
    )
    assert [(row["store"], row["top1"], row["chosen_by"], row["best"]) for row in rows] == [
        ("g1", 0.1, 0.9, True), ("g2", 0.8, 0.2, False),
    ]  # fmt: skip


def test_chosen_on_other_images(two):
    runs = runs_of(two)
    summaries = summaries_of(runs, lambda run: 0.5, other=lambda run: 0.3 if run.condition["store"] == "g1" else 0.7)
    rows = table(runs, summaries, ["v", "w"], choose_on="w")
    assert [row["best"] for row in rows] == [False, True] and rows[0]["top1_on"] == {"v": 0.5, "w": 0.3}


@pytest.mark.parametrize(
    ("baseline", "said"),
    [
        ({"labels": "hard"}, "--baseline labels=hard: these runs do not differ by labels, but by store"),
        ({"store": "g9"}, "--baseline store=g9: store is one of g1, g2"),
    ],
)
def test_a_baseline_that_there_is_not_is_refused(two, baseline, said):
    with pytest.raises(UsageError, match=said):
        check_baseline(runs_of(two), baseline)


def test_a_baseline_as_it_is_written():
    assert parse_baseline("labels=hard,lr=0.1") == {"labels": "hard", "lr": "0.1"} and parse_baseline(None) == {}
    with pytest.raises(UsageError, match="write AXIS=VALUE"):
        parse_baseline("hard")


def test_measured_on_several_sets_beside_a_teacher(tmp_path, monkeypatch):
    """A digits store: its teacher is there, and looks at each set of images once."""
    from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate

    images = ImageOptions(generator="digits", images=64, steps=2, block_size=64)
    here = RunOptions(workers=0, device="cpu")
    store, _ = generate(str(tmp_path / "d.zarr"), images, LabelOptions(views="center"), here, Silent())
    runs = plan_runs(Axes((store.path,), students=("test_resnet",), seeds=(0, 1)), {"epochs": 1, "batch_size": 32})
    looked = []
    import dmkd.compare

    real = dmkd.compare.predict
    monkeypatch.setattr(
        dmkd.compare, "predict", lambda model, batches: looked.append(model.name) or real(model, batches)
    )
    vals = ["digits", store.path]
    outcome = make_runs(runs, tmp_path / "out", vals=vals, device="cpu", workers=0, display=Silent())
    assert not outcome.failed and looked.count("digits-resnet") == 2, "once for each set, not for each run"
    for summary in outcome.summaries.values():
        assert summary["measured"].keys() == set(vals) and summary["evaluated_on"] == "digits"
        on_digits = summary["measured"]["digits"]
        assert summary["top1"] == on_digits["top1"] == pytest.approx(np.mean(on_digits["top1_halves"]), abs=0.01)
        assert 0 <= on_digits["calibration_error"] <= 1 and 0 <= on_digits["agreement_with_teacher"] <= 1
    (line, _) = lines_of(tmp_path / "out")
    assert json.loads(line)["measured"].keys() == set(vals)
    for _ in range(2):  # fewer sets are not a reason to write the line again and again
        make_runs(runs, tmp_path / "out", vals=vals[:1], device="cpu", workers=0, display=Silent())
    assert len(lines_of(tmp_path / "out")) == 2
    for file in (tmp_path / "out/teachers").iterdir():  # of a set of images that has changed since
        with np.load(file) as kept:
            other = {**kept, "class_ids": kept["class_ids"][:-1], "top": kept["top"][:-1]}
        np.savez(file, **other)
    for summary in (tmp_path / "out").glob("runs/*/summary.json"):
        summary.write_text(json.dumps({**json.loads(summary.read_text()), "measured": {}}))
    anew = make_runs(runs, tmp_path / "out", vals=vals, device="cpu", workers=0, display=Silent())
    assert anew.summaries == outcome.summaries
    looked.clear()
    again = make_runs(runs, tmp_path / "out", vals=vals, device="cpu", workers=0, display=Silent())
    assert not looked and again.summaries == outcome.summaries


def test_the_command_says_what_differs(two, tmp_path):
    # fmt: off
    words = ["compare", *two, "--labels", "teacher", "--student", "test_resnet", "--images", "16", "--draws", "2", "--seeds", "2",
             "--epochs", "1", "--batch-size", "16", "--lr", "0.01", "--val", two[0], "--baseline", "store=g1",
             "--choose-on", "half", "--out", str(tmp_path / "out"), "--device", "cpu"]
    # fmt: on
    done = CliRunner(env={"COLUMNS": "200"}).invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "store=g1," in done.output and "chosen" in done.output and "over draws and seeds" in done.output
    rows = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)["rows"]
    assert [row["difference"] is None for row in rows] == [True, False] and rows[0]["draws"] == 2
    done = CliRunner().invoke(main, [*words, "--baseline", "store=g7"])
    assert done.exit_code == 2 and "--baseline store=g7: store is one of g1, g2." in done.output
