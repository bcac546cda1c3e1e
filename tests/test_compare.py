"""Comparisons: which runs there are, that none is made twice, what the table says of them."""

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import CLASS_NAMES, TEACHER
from hypothesis import given
from hypothesis import strategies as st

import dmkd.compare
from dmkd.cli.commands.compare import parse_seeds, parse_vary
from dmkd.cli.compare_plot import Layout, draw, layout_of
from dmkd.cli.main import main
from dmkd.compare import finished, make_runs
from dmkd.runtime.progress import Silent
from dmkd.stores import DmkdError, StoreWriteError, UsageError, create_store, parse_codec
from dmkd.training.comparison import result_line, table
from dmkd.training.conditions import Axes, facts_of, plan_runs, varying_axes
from dmkd.training.execution import Execution

pytestmark = pytest.mark.xdist_group("ray")

FAST = {"epochs": 1, "batch_size": 32, "lr": 0.01, "optimizer": "sgd"}
STUDENT = ("test_resnet",)


def make_store(path, guidance=2.0, seed=0, generator="none"):
    """64 images of 32x32 whose class is their brightness; ``teacher`` says so, ``doubtful`` says so of every other one."""
    rng = np.random.default_rng(seed)
    store = create_store(
        str(path),
        recipe={"generator": generator, "guidance": guidance, "steps": 20, "seed": seed},
        num_images=64,
        image_shape=(32, 32, 3),
        class_names=CLASS_NAMES,
        block_size=16,
    )
    components = ("top", "left", "height", "width", "flip")
    description = {"size": 32, "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center", "first": True}
    for name in ("unused", "views"):  # in the order of names, the labels' views are not the first
        store.add_view_set(name, 1, components, description)
    for name in ("teacher", "doubtful"):
        options = {"codec": parse_codec("float16"), "num_classes": 10, "view_set": "views", "source": name}
        store.add_label_set(name, teacher=TEACHER, **options)
    views = np.tile(np.array([0, 0, 1, 1, 0], np.float32), (16, 1, 1))
    for block in range(4):
        ids = np.arange(block * 16, block * 16 + 16)
        class_ids = (ids % 10).astype(np.int32)
        images = rng.integers(0, 6, (16, 32, 32, 3)) + (class_ids * 25)[:, None, None, None]
        logits = np.eye(10, dtype=np.float32)[class_ids][:, None] * 8
        sure, doubt = np.zeros((16, 3), np.float32), np.zeros((16, 3), np.float32)
        sure[:, 0], sure[:, 1], sure[:, 2] = class_ids, 0.9, 0.1
        doubt[:, 0], doubt[:, 1], doubt[:, 2] = np.where(ids % 2, class_ids, -1), ids / 64, 1.5
        store.write_block(
            block,
            images=images.astype(np.uint8),
            class_ids=class_ids,
            views={"unused": views, "views": views},
            labels={"teacher": (logits, sure), "doubtful": (logits / 2, doubt)},
        )
    return store


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return [make_store(folder / f"g{g:g}.zarr", g, seed).path for seed, g in enumerate((1.5, 4.0))]


def plan(stores, options=None, **axes):
    return plan_runs(Axes(**{"stores": tuple(stores), "labels": ("teacher",), "students": STUDENT, **axes}),
                     {**FAST, **(options or {})})  # fmt: skip


def make(runs, out, val, workers=0):
    return make_runs(runs, out, vals=[val], device="cpu", workers=workers, display=Silent())


def lines(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


# Axes -> runs


def test_there_is_a_run_for_every_combination_and_all_conditions_come_before_the_next_seed(stores):
    axes = {"labels": ("teacher", "hard"), "images": (16, 64), "vary": {"lr": (0.1, 0.2)}, "seeds": (0, 1)}
    runs = plan(stores, {"lr": None}, **axes)
    assert len(runs) == 2 * 2 * 2 * 2 * 2 == len({run.name for run in runs})
    assert [run.seed for run in runs] == [0] * 16 + [1] * 16
    assert varying_axes(runs) == ["store", "labels", "images", "lr"]
    assert {run.condition["store"] for run in runs} == {"g1.5", "g4"}
    assert all(run.recipe.lr == run.condition["lr"] and run.recipe.seed == run.seed for run in runs)


def test_the_first_n_images_are_learnt_from_whatever_else_selects(stores):
    (run,) = plan(stores[:1], images=(20,))
    assert (run.images, run.recipe.select) == (20, "image_id < 20")
    (run,) = plan(stores[:1], {"select": "class_id < 5 or class_id == 9"}, images=(20,))
    assert run.images == 12


def test_hard_labels_see_the_views_that_the_others_see_and_need_no_teacher_for_the_first_n(stores):
    soft, hard = plan(stores[:1], labels=("teacher", "hard"), images=(16,))
    assert (hard.recipe.loss, hard.recipe.labels, hard.recipe.view_set) == ("hard", None, soft.recipe.view_set)
    assert hard.condition["labels"] == "hard" and hard.images == 16
    assert hard.facts["teacher_agreement"] is None and hard.facts["guidance"] == 1.5


@pytest.mark.parametrize("images", [16, 33, 64])
def test_updates_give_all_runs_exactly_as_many_steps_and_the_warm_up_its_share(tmp_path, images):
    store = make_store(tmp_path / "s.zarr", generator="digits").path  # by default 2 of 22 epochs are warm-up
    (run,) = plan([store], {"epochs": None, "updates": 45}, images=(images,))
    assert (run.updates, run.recipe.updates, run.recipe.warmup_updates) == (45, 45, 4)
    (run,) = plan([store], {"epochs": None, "updates": 45, "warmup_epochs": 7}, images=(images,))
    assert run.recipe.warmup_epochs == 7
    (run,) = plan([store], {"epochs": None, "updates": 1})
    assert run.updates == 1


def test_the_same_condition_is_the_same_folder_whatever_else_is_compared(stores):
    alone = {run.name for run in plan(stores[:1], seeds=(1,))}
    among = {run.name for run in plan(stores, labels=("doubtful", "teacher"), seeds=(0, 1))}
    assert alone < among
    assert {run.name for run in plan(stores[:1], {"lr": 0.02}, seeds=(1,))}.isdisjoint(alone)


@pytest.mark.parametrize(
    ("axes", "options", "message"),
    [
        ({"images": (65,)}, {}, "--images 65: .* has 64 images"),
        ({"images": (16, 16)}, {}, "names something twice"),
        ({"labels": ("nobody",)}, {}, "no label set 'nobody'"),
        ({"labels": (None,)}, {}, "several label sets"),
        ({"vary": {"colour": (1, 2)}}, {}, "no such training option; there are .*temperature"),
        ({"vary": {"seed": (1, 2)}}, {}, "an option of its own, --seeds"),
        ({"vary": {"lr": (1.0, 2.0)}}, {}, "can't both say"),
        ({"vary": {"temperature": (1.0, -1.0)}}, {}, "--temperature must be greater than 0"),
        ({"seeds": ()}, {}, "no seeds are given"),
        ({}, {"updates": 5}, "can't both say how long"),
        ({"vary": {"updates": (5, 6)}}, {}, "can't both say how long"),
        ({}, {"epochs": None, "updates": 0}, "--updates must be greater than 0"),
    ],
)
def test_what_can_not_be_compared_is_refused_before_any_training(stores, axes, options, message):
    with pytest.raises(UsageError, match=message):
        plan(stores[:1], options, **axes)


def test_facts_are_of_the_images_that_are_learnt_from(stores):
    store = dmkd.training.conditions.open_store(stores[0])
    facts = facts_of(store, "doubtful", np.arange(32))
    assert facts["teacher_agreement"] == 0.5 and facts["entropy"] == 1.5
    assert facts["p_class"] == pytest.approx(np.arange(32).mean() / 64)
    (run,) = plan(stores[:1], labels=("doubtful",), images=(32,))
    assert run.facts == facts and (facts["guidance"], facts["steps"]) == (1.5, 20)


# Runs -> students


@pytest.fixture(scope="module")
def compared(stores, tmp_path_factory):
    """Two stores, two seeds: made once for the tests that only look."""
    out = tmp_path_factory.mktemp("compared")
    runs = plan(stores, seeds=(0, 1))
    return runs, out, make(runs, out, stores[0])


def test_each_run_is_trained_into_its_own_folder_and_has_a_line(compared, stores):
    runs, out, outcome = compared
    assert outcome.summaries.keys() == {run.name for run in runs} and not outcome.failed
    assert {path.name for path in (out / "runs").iterdir()} == {run.name for run in runs}
    assert [line["run"] for line in lines(out)] == [run.name for run in runs]
    for line in lines(out):
        assert line["top1"] == outcome.summaries[line["run"]]["top1"] and line["evaluated_on"] == stores[0]
        assert (line["updates"], line["images_used"]) == (2, 64)


def test_a_line_says_which_loss_where_that_is_an_axis(compared):
    runs, _, outcome = compared
    run = replace(runs[0], condition={**runs[0].condition, "loss": "kl"})
    line = result_line(run, outcome.summaries[run.name])
    assert line["loss"] == "kl" and line["training_loss"] == outcome.summaries[run.name]["loss"]


def test_what_is_done_is_not_done_again_and_more_seeds_add_to_it(compared, stores, monkeypatch):
    _, out, outcome = compared
    trained, real = [], dmkd.compare.train
    monkeypatch.setattr(dmkd.compare, "train", lambda recipe, *a, **k: trained.append(recipe) or real(recipe, *a, **k))
    before = len(lines(out))
    again = make(plan(stores, seeds=(0, 1)), out, stores[0])
    assert not trained and again.summaries == outcome.summaries and len(lines(out)) == before
    more = make(plan(stores[:1], seeds=(0, 1, 2)), out, stores[0])
    assert [recipe.seed for recipe in trained] == [2] and len(more.summaries) == 3


def test_other_images_to_measure_on_need_no_other_training(compared, stores, tmp_path, monkeypatch):
    runs, out, outcome = compared
    monkeypatch.setattr(dmkd.compare, "train", lambda *a, **k: pytest.fail("it is trained already"))
    again = make(runs[:1], out, stores[1])
    assert again.summaries[runs[0].name]["evaluated_on"] == stores[1]
    assert lines(out)[-1]["evaluated_on"] == stores[1] and lines(out)[-1]["run"] == runs[0].name
    back = make(runs[:1], out, stores[0])
    assert back.summaries[runs[0].name]["top1"] == outcome.summaries[runs[0].name]["top1"]


def test_a_line_that_was_cut_short_does_not_spoil_the_next(compared, stores, tmp_path):
    runs, out, _ = compared
    (tmp_path / "runs").symlink_to(out / "runs")
    (tmp_path / "results.jsonl").write_text('{"run": "half a li')
    make(runs, tmp_path, stores[0])
    assert [json.loads(line)["run"] for line in (tmp_path / "results.jsonl").read_text().splitlines()[1:]] == [
        run.name for run in runs
    ]


def test_a_folder_that_holds_another_run_is_not_taken_for_this_one(compared, stores):
    runs, out, _ = compared
    other = replace(runs[0], description={**runs[0].description, "labels": {}})
    assert finished(runs[0], out) is not None and finished(other, out) is None


def test_how_runs_are_carried_out_is_handed_on(stores, tmp_path):
    (run,) = plan(stores[:1], {"epochs": 2})
    execution = Execution(evaluate_every=2)
    make_runs([run], tmp_path, vals=[stores[0]], device="cpu", workers=0, display=Silent(), execution=execution)
    (curves,) = tmp_path.glob("runs/*/metrics.jsonl")
    assert ["top1" in json.loads(line) for line in curves.read_text().splitlines()] == [False, True]


def test_a_run_that_fails_is_named_and_the_others_go_on(stores, tmp_path):
    runs = plan(stores[:1], {"lr": None}, vary={"lr": (1e30, 0.01)})
    runs = [replace(r, recipe=replace(r.recipe, epochs=3)) for r in runs]
    outcome = make(runs, tmp_path, stores[0])
    assert outcome.failed.keys() == {runs[0].name} and "The loss became" in outcome.failed[runs[0].name]
    assert outcome.summaries.keys() == {runs[1].name}


KILLED = """
import sys
from pathlib import Path
from test_compare import long_runs, make
make(long_runs(sys.argv[1]), Path(sys.argv[2]), sys.argv[1])
"""


def long_runs(store):
    return plan([store], {"epochs": 8, "batch_size": 8}, seeds=(0, 1))


@pytest.mark.slow
def test_killed_in_the_middle_of_a_run_it_goes_on_there_with_the_same_result(stores, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", KILLED, stores[0], str(killed)], env=environment)
    while process.poll() is None and not any(
        len(path.read_text().splitlines()) >= 2 for path in killed.glob("runs/*-seed1-*/metrics.jsonl")
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(lines(killed)) == 1, "one run of two was done"
    make(long_runs(stores[0]), killed, stores[0])
    make(long_runs(stores[0]), whole, stores[0])
    assert [(line["run"], line["loss"], line["top1"]) for line in lines(killed)] == [
        (line["run"], line["loss"], line["top1"]) for line in lines(whole)
    ]


@pytest.mark.slow
def test_ray_tasks_make_the_runs_and_a_failure_is_one_of_them(stores, tmp_path):
    import ray

    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    environment = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    # fmt: off
    ray.init("local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False,
             object_store_memory=100 * 2**20, runtime_env={"env_vars": environment})
    # fmt: on
    try:
        runs = plan(stores[:1], seeds=(0, 1)) + plan(stores[:1], {"lr": 1e30, "epochs": 3})
        outcome = make(runs, tmp_path, stores[0], workers=2)
    finally:
        ray.shutdown()
    assert outcome.summaries.keys() == {run.name for run in runs[:2]}
    assert "The loss became" in outcome.failed[runs[2].name]
    assert {line["run"] for line in lines(tmp_path)} == {run.name for run in runs[:2]}
    assert "DMKD_CPU_THREADS" not in os.environ


@pytest.mark.slow
def test_a_disk_that_fails_below_a_ray_task_ends_the_comparison(stores, tmp_path):
    import ray

    runs = plan(stores[:1], seeds=(0, 1))
    (tmp_path / "runs" / runs[0].name / "summary.json").mkdir(parents=True)  # no file can be put in its place
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    environment = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    # fmt: off
    ray.init("local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False,
             object_store_memory=100 * 2**20, runtime_env={"env_vars": environment})
    # fmt: on
    try:
        with pytest.raises(StoreWriteError, match=r"^Could not write .*summary\.json: Is a directory"):
            make(runs, tmp_path, stores[0], workers=1)
    finally:
        ray.shutdown()


# Students -> table, plot


def summaries_of(runs, top1s):
    def measured(top1):
        return {"top1": top1, "top1_halves": [top1, 1 - top1], "calibration_error": 0.1, "agreement_with_teacher": None}

    return {
        run.name: {"measured": {"v": measured(top1)}, "images_per_second": 100.0}
        for run, top1 in zip(runs, top1s, strict=True)
    }


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_a_row_is_mean_and_standard_deviation_over_the_seeds_of_a_condition(stores_once, top1s):
    runs = stores_once  # two stores, three seeds, seeds outermost
    rows = table(runs, summaries_of(runs, top1s), ["v"])
    for number, row in enumerate(rows):
        own = top1s[number::2]
        assert row["seeds"] == 3
        assert row["top1"] == pytest.approx(statistics.mean(own))
        assert row["top1_sd"] == pytest.approx(np.std(own, ddof=1), abs=1e-9)
    assert max(rows, key=lambda row: row["top1"])["best"]


@pytest.fixture(scope="module")
def stores_once(stores):
    return plan(stores, seeds=(0, 1, 2))


def test_rows_are_sorted_by_numbers_as_numbers_and_one_seed_has_no_deviation(stores):
    runs = plan(stores[::-1], {"lr": None}, vary={"lr": (0.2, 0.03, 0.1)})
    rows = table(runs, summaries_of(runs, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), ["v"])
    assert [(row["guidance"], row["lr"]) for row in rows] == [(g, lr) for g in (1.5, 4.0) for lr in (0.03, 0.1, 0.2)]
    assert all(row["top1_sd"] is None for row in rows)
    assert [row["best"] for row in rows].count(True) == 1 and rows[1]["best"]


def test_a_table_leaves_out_what_there_is_no_run_of(stores):
    runs = plan(stores, seeds=(0, 1))
    rows = table(runs, summaries_of(runs[:1], [0.5]), ["v"])
    assert len(rows) == 1 and rows[0]["seeds"] == 1
    assert table(runs, {}, ["v"]) == []


def rows_of(**axes):
    import itertools

    names = {"store": ["s"], "guidance": [2.0], "steps": [20], "images": [64], **axes}
    return [
        {**dict(zip(names, values, strict=True)), "top1": 0.5, "top1_sd": None}
        for values in itertools.product(*names.values())
    ]


def test_stores_are_drawn_by_the_numbers_that_tell_them_apart():
    rows = rows_of(guidance=[1.0, 2.0], steps=[10, 20], images=[300, 1000])
    rows = [{**row, "store": f"g{row['guidance']}-s{row['steps']}"} for row in rows]
    assert layout_of(rows, ["store", "images"]) == Layout("guidance", True, ("steps",), "images")


def test_stores_that_no_number_tells_apart_are_drawn_by_name():
    assert layout_of(rows_of(store=["a", "b"]), ["store"]) == Layout("store", False, (), None)
    rows = rows_of(store=["a", "b"], images=[300, 1000])
    assert layout_of(rows, ["store", "images"]) == Layout("images", True, ("store",), None)


@pytest.mark.parametrize(
    ("rows", "axes"),
    [
        (rows_of(), []),
        (rows_of(labels=["a", "hard"]), ["labels"]),
        (rows_of(images=[300, 1000, 3000], labels=["a", "hard"]), ["images", "labels"]),
        (rows_of(lr=[0.1, 0.2], images=[300, 1000]), ["lr", "images"]),
    ],
)
def test_every_table_can_be_drawn(rows, axes, tmp_path):
    pytest.importorskip("matplotlib")
    draw(rows, axes, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


# The command


def test_what_is_to_be_varied_is_read_as_the_option_reads_it():
    assert parse_vary(["lr=0.1,0.05", "warmup-epochs=0,2", "loss=kl, hard"]) == {
        "lr": (0.1, 0.05),
        "warmup_epochs": (0, 2),
        "loss": ("kl", "hard"),
    }
    for wrong, message in (("lr=a,b", "'a' is not a valid float"), ("lr", "OPTION=A,B"), ("seed=1,2", "of their own")):
        with pytest.raises(UsageError, match=message):
            parse_vary([wrong])
    assert parse_seeds("3") == (0, 1, 2) and parse_seeds("3,") == (3,) and parse_seeds("5,1") == (5, 1)
    with pytest.raises(UsageError):
        parse_seeds("0")


def dmkd_compare(*arguments, epochs=1):
    options = ["--student", "test_resnet", "--batch-size", 32, "--device", "cpu", "--workers", 0]
    options += [] if epochs is None else ["--epochs", epochs]
    return CliRunner().invoke(main, ["compare", *map(str, [*arguments, *options])])


def test_the_command_prints_a_table_and_writes_table_and_plot(stores, tmp_path):
    arguments = [
        *stores,
        "--labels",
        "teacher",
        "--val",
        stores[0],
        "--seeds",
        2,
        "--out",
        tmp_path / "out",
        "--lr",
        0.01,
    ]
    done = dmkd_compare(*arguments, "--csv", tmp_path / "t.csv", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["axes"] == ["store"] and [row["guidance"] for row in result["rows"]] == [1.5, 4.0]
    assert "compare: 4/4 runs" in done.stderr
    with (tmp_path / "t.csv").open() as file:
        assert [float(row["top1"]) for row in csv.DictReader(file)] == [row["top1"] for row in result["rows"]]
    again = dmkd_compare(*arguments)
    best = next(row for row in result["rows"] if row["best"])
    assert f"{100 * best['top1']:.2f} ± {100 * best['top1_sd']:.2f}" in again.stdout and "agrees" in again.stdout
    pytest.importorskip("matplotlib")
    assert (tmp_path / "out/compare.png").exists()


def test_a_failed_run_makes_exit_code_1_and_the_table_has_the_others(stores, tmp_path):
    arguments = [stores[0], "--labels", "teacher", "--val", stores[0], "--seeds", 1, "--out", tmp_path]
    done = dmkd_compare(*arguments, "--vary", "lr=0.01,1e30", "--updates", 6, "--json", epochs=None)
    assert done.exit_code == 1
    result = json.loads(done.stdout)
    assert len(result["rows"]) == 1 and len(result["failed"]) == 1
    told = " ".join(done.stderr.split())
    assert "1 of 2 runs failed" in told and "The loss became" in told and "Rerun the same command" in told


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--val", "nowhere"], "nothing to evaluate on at nowhere"),
        (["--val", "http://example.org/val"], "http://example.org/val: a store is a local path or one of"),
        (["--val", "{folder}/two"], "has 2 class folders and test_resnet knows 10 classes"),
        (["--student", "resnet19"], "no student architecture 'resnet19'; did you mean"),
        (["--student-arg", "colour=red"], "test_resnet can't be built with colour=red"),
        (["--optimizer", "sgdd", "--lr", 0.1], "timm has no 'sgdd'"),
        (["--vary", "optimizer=sgd,sgdd", "--lr", 0.1], "timm has no 'sgdd'"),
        (["--vary", "lr=0.1,fast"], "'fast' is not a valid float"),
        (["--vary", "schedule=step,cosin"], "--schedule must be one of"),
        (["--vary", "colour=red,blue"], "write OPTION=A,B with one of"),
        (["--vary", "preset=dm-kd,x"], "no preset 'x'"),
        (["--labels", "nobody"], "no label set 'nobody'"),
        (["--amp", "float16"], "--amp float16 needs a GPU"),
        (["--amp", "half"], "--amp must be one of"),
        (["--out", "{folder}/file/out"], "can't be made a folder"),
    ],
)
def test_what_no_run_could_begin_with_is_told_before_any_run(stores, tmp_path, monkeypatch, options, sentence):
    monkeypatch.chdir(tmp_path)
    for name in ("two/a", "two/b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    options = [str(option).format(folder=tmp_path) for option in options]
    done = dmkd_compare(stores[0], "--labels", "teacher", "--val", stores[1], *options)
    assert done.exit_code == 2, done.output
    assert sentence in " ".join(done.stderr.split()) and "Run " not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_table_of_finished_runs_needs_no_images_any_more(compared, stores, monkeypatch):
    runs, out, outcome = compared
    monkeypatch.setattr(dmkd.compare, "evaluation_batches", lambda *a: pytest.fail("nothing is to be measured"))
    again = make(runs, out, stores[0])
    assert again.summaries.keys() == outcome.summaries.keys() and not again.failed


def test_images_to_measure_on_must_be_said(stores, tmp_path):
    done = dmkd_compare(stores[0], "--labels", "teacher", "--out", tmp_path / "out")
    assert done.exit_code == 2 and "--val" in done.stderr and not (tmp_path / "out").exists()


def test_threads_are_those_that_the_environment_says(monkeypatch):
    from dmkd.runtime.devices import default_cpu_threads

    monkeypatch.setenv("DMKD_CPU_THREADS", "1")
    assert default_cpu_threads() == 1
    monkeypatch.setenv("DMKD_CPU_THREADS", "many")
    with pytest.raises(DmkdError, match="DMKD_CPU_THREADS must be a number"):
        default_cpu_threads()
