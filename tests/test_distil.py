"""`dmkd distil`: images in rounds that follow the student, and the student, as one command that can be stopped anywhere."""

import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import tree_bytes
from safetensors.torch import load_file

import dmkd.cli.training_progress as training_progress
import dmkd.digits
import dmkd.distil
import dmkd.training.run
from dmkd.cli.main import main
from dmkd.making.blocks import BlockWorker
from dmkd.stores import open_store

# fmt: off
STEERED = ["--candidates", 2, "--candidate-steps", 2, "--strength", 0.1, "--class-shares", 0.5]
FAST = ["--sampler", "ddim", "--steps", 3, "--block-size", 8, "--sub-batch", 8, "--views", "rrc:2", "--workers", 0, "--device",
        "cpu", "--images", 28, "--rounds", 3, "--student", "test_resnet", "--updates", 4, "--batch-size", 8, *STEERED]
# fmt: on


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def dmkd_distil(*arguments, code=0):
    done = CliRunner().invoke(main, ["distil", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def distil(models, folder, *more, code=0):
    generator, teacher = models
    folder = Path(folder)
    return dmkd_distil(
        *("--store", folder / "s.zarr", "--out", folder / "students", "--generator", generator, "--teacher", teacher),
        *FAST,
        *more,
        code=code,
    )


@pytest.fixture(scope="module")
def models(tiny_generator, tiny_teacher):
    return tiny_generator, tiny_teacher


@pytest.fixture(scope="module")
def undisturbed(models, tmp_path_factory):
    """Its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, json.loads(distil(models, folder, "--warm", "--json").stdout.splitlines()[-1])


def student(folder, name="student"):
    return (Path(folder) / "students" / name / "student/model.safetensors").read_bytes()


def assert_same(folder, undisturbed):
    there, wanted = folder / "s.zarr", undisturbed / "s.zarr"
    assert tree_bytes(there) == tree_bytes(wanted)
    rounds = [[(one.identity, one.student_weights()) for one in open_store(path).rounds] for path in (there, wanted)]
    assert rounds[0] == rounds[1]
    for name in ("round-0", "round-1", "student"):
        assert student(folder, name) == student(undisturbed, name)


def test_each_round_follows_the_student_of_all_images_so_far(undisturbed):
    folder, printed = undisturbed
    store = open_store(folder / "s.zarr")
    assert store.num_images == 28 and [(one.start, one.stop) for one in store.rounds] == [(9, 18), (18, 28)]
    for number, one in enumerate(store.rounds):
        assert one.student_weights() == student(folder, f"round-{number}")
        assert one.description["candidates"] == 2 and one.description["strength"] == 0.1
        assert sum(one.description["class_counts"]) == one.stop - one.start
    looked_at = [
        json.loads((folder / "students" / name / "summary.json").read_text())["store"]["images"]
        for name in ("round-0", "round-1", "student")
    ]
    assert looked_at == [9, 18, 28]
    assert printed["store"] == str(folder / "s.zarr") and printed["out"] == str(folder / "students")
    assert printed["student"]["student"] == str(folder / "students/student/student")


def test_its_table_has_a_line_for_each_round(undisturbed):
    folder, printed = undisturbed
    assert [line["round"] for line in printed["rounds"]] == [0, 1, 2]
    assert [line["images"] for line in printed["rounds"]] == [9, 9, 10]
    store = open_store(folder / "s.zarr")
    labels = store.labels["tiny-resnet"]
    agreed = labels.quality[:][:, 0] == store.class_ids[:]
    for line, part in zip(printed["rounds"], (slice(0, 9), slice(9, 18), slice(18, 28)), strict=True):
        assert line["agreement"] == pytest.approx(agreed[part].mean())
        assert line["generation_seconds"] > 0 and line["training_seconds"] > 0 and line["top1"] is None
        if line["round"]:
            assert line["score"] == pytest.approx(store.columns["score"][part].mean())
    assert printed["rounds"][0]["score"] is None


def test_a_finished_one_is_not_done_again_and_prints_the_same(models, undisturbed, monkeypatch):
    folder, printed = undisturbed
    names = ("model.safetensors", "metrics.jsonl", "summary.json", "rounds.json")
    files = {file: file.read_bytes() for file in (folder / "students").rglob("*") if file.name in names}
    before = tree_bytes(folder / "s.zarr")
    monkeypatch.setattr("dmkd.making.blocks.BlockWorker.make", lambda *_: pytest.fail("an image is made again"))
    monkeypatch.setattr(dmkd.training.run.Optimisation, "step", lambda *_: pytest.fail("a student learns again"))
    again = distil(models, folder, "--warm", "--json")
    assert json.loads(again.stdout.splitlines()[-1]) == printed
    text = distil(models, folder, "--warm").stdout
    assert distil(models, folder, "--warm").stdout == text
    for words in ("in rounds", "teacher agrees", "top-1 so far", f"{printed['rounds'][2]['score']:.3f}"):
        assert words in text
    assert " ".join(text.split()).replace(" ", "").endswith(f"Thestudentisin{folder}/students/student/student.")
    assert tree_bytes(folder / "s.zarr") == before
    assert len(files) == 10 and all(file.read_bytes() == content for file, content in files.items())


def test_stopped_after_each_stage_it_goes_on_to_the_same_bytes(models, undisturbed, tmp_path, monkeypatch):
    """And before the next one has begun: with what the store and the folders say, and nothing else."""
    finished = []

    def stopping(stage, name_of):
        def stopped(*arguments, **options):
            result, name = stage(*arguments, **options), name_of(arguments)
            if name not in finished:
                finished.append(name)
                raise KeyboardInterrupt
            return result

        return stopped

    generate, train = dmkd.distil.generate, training_progress.train_with_progress
    monkeypatch.setattr(dmkd.distil, "generate", stopping(generate, lambda arguments: arguments[1].images))
    monkeypatch.setattr(training_progress, "train_with_progress", stopping(train, lambda arguments: arguments[2].name))
    stages = [9, "round-0", 18, "round-1", 28, "student"]
    for number in range(len(stages)):
        done = CliRunner().invoke(main, _words(models, tmp_path))
        assert done.exit_code != 0 and finished == stages[: number + 1]
    distil(models, tmp_path, "--warm")
    assert_same(tmp_path, undisturbed[0])


def _words(models, folder):
    paths = {"store": folder / "s.zarr", "out": folder / "students", "generator": models[0], "teacher": models[1]}
    named = [word for name, path in paths.items() for word in (f"--{name}", path)]
    return ["distil", *map(str, [*named, *FAST, "--warm"])]


@pytest.mark.slow
def test_stopped_within_a_stage_it_goes_on_to_the_same_bytes(models, undisturbed, tmp_path, monkeypatch):
    for owner, method, calls in ((BlockWorker, "make", 3), (dmkd.training.run.Optimisation, "step", 6)):
        left, real = [calls], getattr(owner, method)

        def stopped(*arguments, left=left, real=real, **options):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(owner, method, stopped)
            assert CliRunner().invoke(main, _words(models, tmp_path)).exit_code != 0
        assert left[0] <= 0
    distil(models, tmp_path, "--warm")
    assert_same(tmp_path, undisturbed[0])


def test_seconds_add_up_over_interruptions(tmp_path):
    book = dmkd.distil.Book(tmp_path / "rounds.json")
    for _ in range(2):
        with suppress(KeyboardInterrupt), book.timed(0, "generation_seconds"):
            time.sleep(0.1)
            raise KeyboardInterrupt
    again = dmkd.distil.Book(tmp_path / "rounds.json")
    assert again.lines(1)[0]["generation_seconds"] == pytest.approx(0.2, abs=0.09) and not again.knows(0)
    again.note(0, {"images": 9})
    with again.timed(0, "generation_seconds"):
        time.sleep(0.1)
    assert again.lines(1) == [{**book.lines(1)[0], "images": 9}], "what is finished takes no more"


def test_what_is_left_is_told_by_the_round_before(tmp_path):
    book = dmkd.distil.Book(tmp_path / "rounds.json")
    assert book.seconds_left(0, 3) is None and book.seconds_left(1, 3) is None
    book.note(0, {"generation_seconds": 10.0, "training_seconds": 6.0, "images": 9})
    assert book.seconds_left(1, 3) == 2 * 10 + 6 * 2 + 6 * 3


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            ["--images", 56],
            "was not made in such rounds: give another --store, or the --images and --rounds that it was",
        ),
        (["--rounds", 2], "was not made in such rounds"),
        (["--rounds", 4], "was not made in such rounds"),
        (["--out", "elsewhere"], "elsewhere is not where the students of .* are: give the --out that it was made with"),
        (
            ["--candidates", 3],
            "Round 2 of .* differs from what was asked for .candidates: the store has 2, you asked for 3",
        ),
        (["--steps", 4], "steps: the store has 3, you asked for 4"),
    ],
)
def test_a_store_of_other_rounds_is_refused_and_left_alone(models, undisturbed, more, sentence):
    folder, _ = undisturbed
    before = tree_bytes(folder / "s.zarr"), student(folder)
    done = CliRunner().invoke(main, [*_words(models, folder), *map(str, more)])
    assert done.exit_code in (1, 2) and "Traceback" not in done.output
    assert re.search(sentence, " ".join(done.stderr.split())), done.stderr
    assert (tree_bytes(folder / "s.zarr"), student(folder)) == before and len(open_store(folder / "s.zarr").rounds) == 2


@pytest.mark.parametrize(
    ("more", "code", "sentence"),
    [
        (["--rounds", "0"], 2, "--rounds must be at least 1, not 0."),
        (["--images", "2"], 2, "2 images can't be made in 3 rounds: ask for more --images."),
        (["--candidates", "65"], 2, "--candidates 65: ask for 1 to 64"),
        (["--score", "loss"], 2, "--score loss: there are kl, entropy, learnability"),
        (["--agreement", "2"], 2, "--agreement 2: give a share"),
        (["--val", "nowhere"], 2, "nothing to evaluate on at nowhere"),
        (["--student", "resnet17"], 2, "There is no student architecture 'resnet17'; did you mean resnet18"),
        (["--loss", "kll"], 2, "--loss must be one of kl, dkd,"),
        (["--lr", "-1"], 2, "--lr must be greater than 0, not -1.0."),
        (["--epochs", "2"], 2, "--epochs and --updates can't both say how long to train"),
        (["--follow-updates", "0"], 2, "--updates must be greater than 0, not 0."),
    ],
)
def test_what_can_not_be_done_is_refused_before_anything_is_made(models, tmp_path, more, code, sentence):
    done = CliRunner().invoke(main, [*_words(models, tmp_path), *more])
    assert done.exit_code == code and sentence in " ".join(done.stderr.split())
    assert not (tmp_path / "s.zarr").exists()


def test_without_a_number_of_images_there_is_nothing_to_part(models, tmp_path):
    words = [word for word in _words(models, tmp_path) if word not in ("--images", "28")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2 and "there are to be in all rounds together: --images N" in " ".join(done.stderr.split())


def test_one_round_is_images_and_a_student(models, tmp_path):
    distil(models, tmp_path, "--rounds", 1, "--images", 8)
    store = open_store(tmp_path / "s.zarr")
    assert not store.rounds and store.num_images == 8 and (tmp_path / "students/student/summary.json").exists()


def trained(folder, name):
    return json.loads((folder / "students" / name / "summary.json").read_text())["training"]


def test_warm_students_begin_with_the_weights_before_and_the_last_one_afresh(models, undisturbed, tmp_path):
    folder, _ = undisturbed
    distil(models, tmp_path)
    assert student(tmp_path, "round-0") == student(folder, "round-0")
    assert student(tmp_path, "round-1") != student(folder, "round-1")
    assert trained(folder, "round-1")["start_from"] == hashlib.sha256(student(folder, "round-0")).hexdigest()
    for one, name in ((folder, "round-0"), (folder, "student"), (tmp_path, "round-1")):
        assert "start_from" not in trained(one, name)


def test_students_that_are_followed_may_be_shorter(models, tmp_path):
    distil(models, tmp_path, "--rounds", 2, "--images", 16, "--follow-updates", 2)
    assert trained(tmp_path, "round-0")["updates"] == 2 and trained(tmp_path, "student")["updates"] == 4
    distil(models, tmp_path / "b", "--rounds", 2, "--images", 16, "--follow-epochs", 3)
    first = trained(tmp_path / "b", "round-0")
    assert first["epochs"] == 3 and first.get("updates") is None


# fmt: off
DIGITS = ["--generator", "digits", "--steps", 2, "--images", 16, "--rounds", 2, "--block-size", 8, "--workers", 0, "--device",
          "cpu", "--updates", 2, "--batch-size", 8, "--candidates", 2]
# fmt: on


def test_without_val_nothing_of_real_images_is_opened(tmp_path, monkeypatch):
    opened = []

    def heldout():
        opened.append("digits")
        return real()

    real = dmkd.digits.heldout
    monkeypatch.setattr(dmkd.digits, "heldout", heldout)
    dmkd_distil("--store", "s.zarr", *DIGITS)
    assert not opened and Path("students/s-rounds/student/summary.json").exists()
    lines = json.loads(dmkd_distil("--store", "t.zarr", *DIGITS, "--val", "digits", "--json").stdout.splitlines()[-1])
    assert opened and all(0 <= line["top1"] <= 1 for line in lines["rounds"])
    assert tree_bytes(Path("s.zarr")) == tree_bytes(Path("t.zarr")), "and it chooses nothing"
    last = [(Path("students") / name / "student/student/model.safetensors") for name in ("s-rounds", "t-rounds")]
    assert last[0].read_bytes() == last[1].read_bytes()


KILLED = "import sys; from dmkd.cli.main import main; main(sys.argv[1:])"


@pytest.mark.slow
def test_killed_at_five_moments_it_goes_on_to_the_same_bytes(tmp_path):
    words = ["distil", "--store", "s.zarr", "--out", "students", *map(str, DIGITS), "--images", "48", "--rounds", "3"]

    def start(folder):
        folder.mkdir(exist_ok=True)
        return subprocess.Popen([sys.executable, "-c", KILLED, *words], cwd=folder, stderr=subprocess.PIPE, text=True)

    whole = start(tmp_path / "whole")
    assert not whole.communicate()[1].count("Traceback") and whole.returncode == 0
    killed, kills = tmp_path / "killed", 0
    for share in (0.05, 0.3, 0.5, 0.7, 0.95):
        chunks = share * len(tree_bytes(tmp_path / "whole/s.zarr"))
        process = start(killed)
        while process.poll() is None and len(list(killed.rglob("c.*"))) < chunks:
            time.sleep(0.005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills == 5
    last = start(killed)
    assert last.communicate()[1].count("Traceback") == 0 and last.returncode == 0
    assert tree_bytes(killed / "s.zarr") == tree_bytes(tmp_path / "whole/s.zarr")
    assert student(killed) == student(tmp_path / "whole")


def train_student(*arguments, code=0):
    fast = ["--student", "test_resnet", "--batch-size", 8, "--device", "cpu"]
    done = CliRunner().invoke(main, ["train-student", *map(str, [*fast, *arguments])])
    assert done.exit_code == code, done.output
    return done


def test_a_student_that_starts_from_another_has_its_weights_at_first(undisturbed, tmp_path, monkeypatch):
    folder, _ = undisturbed
    begun = []

    class Spy(dmkd.training.run.Optimisation):
        def __init__(self, recipe, objective, *rest):
            begun.append({key: value.clone() for key, value in objective.model.state_dict().items()})
            super().__init__(recipe, objective, *rest)

    monkeypatch.setattr(dmkd.training.run, "Optimisation", Spy)
    store = ["--store", folder / "s.zarr", "--updates", 2]
    for number, start in enumerate(("students/round-0", "students/round-0/student")):
        train_student(*store, "--start-from", folder / start, "--out", f"run-{number}")
        weights = load_file(folder / "students/round-0/student/model.safetensors")
        assert weights.keys() == begun[-1].keys()
        assert all(torch.equal(weights[key], begun[-1][key]) for key in weights)
    train_student(*store, "--out", "afresh")
    assert any(not torch.equal(weights[key], begun[-1][key]) for key in weights)
    recipe = json.loads(Path("run-0/summary.json").read_text())
    assert len(recipe["training"]["start_from"]) == 64 and str(folder / "students/round-0") not in json.dumps(recipe)
    assert Path("run-0/student/model.safetensors").read_bytes() == Path("run-1/student/model.safetensors").read_bytes()


def test_a_student_that_starts_from_another_is_resumed(undisturbed, monkeypatch):
    folder, _ = undisturbed
    words = [
        "--store",
        folder / "s.zarr",
        "--start-from",
        folder / "students/round-0",
        "--epochs",
        3,
        "--checkpoint-every",
        0,
    ]
    train_student(*words, "--out", "whole")
    left, real = [5], dmkd.training.run.Optimisation.step

    def stopped(*arguments, **options):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(dmkd.training.run.Optimisation, "step", stopped)
        words_of_it = ["train-student", "--student", "test_resnet", "--batch-size", "8", "--device", "cpu"]
        assert CliRunner().invoke(main, [*words_of_it, *map(str, words), "--out", "stopped"]).exit_code != 0
    assert Path("stopped/checkpoint.pt").exists() and not Path("stopped/summary.json").exists()
    train_student(*words, "--out", "stopped")
    whole, again = (Path(name) / "student/model.safetensors" for name in ("whole", "stopped"))
    assert whole.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    ("start", "more", "sentence"),
    [
        (
            "nowhere",
            [],
            "--start-from nowhere: there is no model.safetensors; give the folder of a student, or of its run.",
        ),
        (None, ["--student", "test_efficientnet"], "does not fit test_efficientnet: "),
        (None, ["--pretrained"], "--start-from and --pretrained are two ways to begin: give one of them."),
    ],
)
def test_a_start_that_can_not_be_is_refused_in_one_sentence(undisturbed, start, more, sentence):
    folder, _ = undisturbed
    words = ["--start-from", start or folder / "students/round-0", "--updates", 2, "--out", "run"]
    done = train_student("--store", folder / "s.zarr", *words, *more, code=2)
    said = " ".join(done.stderr.split())
    assert sentence in said and said.endswith(".")
