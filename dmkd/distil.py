"""`dmkd distil`: rounds of images, each made for what the student of those before has not learned, and a student of them all."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dmkd.classifiers.students import check_architecture
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate
from dmkd.making.round_request import or_recommended
from dmkd.recipes.recipe import Recipe
from dmkd.recipes.rounds import RoundOptions
from dmkd.runtime.progress import Display
from dmkd.runtime.whole_files import write_file
from dmkd.stores import Store, UsageError, open_store, store_exists
from dmkd.stores.layout import SCORE
from dmkd.training.run_folder import make_folder
from dmkd.training.training_recipe import check_training

__all__ = ["DistilOptions", "distil"]

ROUNDS_FILE = "rounds.json"
FINAL = "student"  # folder of the last student's run, below ``out``
MOST_LOOKED_AT = 10_000  # images of a round, for the table

# Trains one student: store, options for ``resolve_training``, folder, name -> its summary.
TrainStudent = Callable[[Store, Mapping[str, Any], Path, str], Mapping[str, Any]]


@dataclass(frozen=True)
class DistilOptions:
    """The loop."""

    rounds: int = 5  # the first of which follows no student
    warm: bool = (
        False  # each student that is followed begins with the weights of the one before; the last one begins afresh
    )
    follow_epochs: int | None = None  # of the students that are followed; None: as the last one's
    follow_updates: int | None = None


def distil(
    path: str,
    out: Path,
    images: ImageOptions,
    labels: LabelOptions,
    steering: RoundOptions,
    options: DistilOptions,
    training: Mapping[str, Any],
    run: RunOptions,
    display: Display,
    train_student: TrainStudent,
    tell_recipe: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Images in rounds, and their students: in ``out/round-0``, ``round-1``, ... those that rounds follow, in ``out/student`` the
    one of all images.

    ``images.images`` in all, as many in each round, as nearly as can be; ``steering``: what the rounds are made by (see
    :func:`or_recommended`). Each stage is resumed by the same call, and a finished one is not done again.
    Returns ``rounds``, a line for each (number, images, seconds, top1 of the student of the images so far, agreement and score of
    its images) and ``student``, the last one's summary.
    Raises ``UsageError`` for what can't be done, ``MismatchError`` if the store's rounds are others.
    """
    if options.rounds < 1:
        raise UsageError(f"--rounds must be at least 1, not {options.rounds}.")
    for given in (training, {**training, **_short(options)}):
        check_training(given)
    if training.get("student") is not None:
        check_architecture(training["student"])
    total = images.images
    if total is None:
        raise UsageError("Say how many images there are to be in all rounds together: --images N.")
    if total < options.rounds:
        raise UsageError(f"{total:,} images can't be made in {options.rounds} rounds: ask for more --images.")
    ends = [total * (number + 1) // options.rounds for number in range(options.rounds)]
    make_folder(out)
    book = Book(out / ROUNDS_FILE)
    for number in range(_rounds_past(path, ends, book), options.rounds):
        last = number + 1 == options.rounds
        title = f"round {number}/{options.rounds - 1}{_about(book.seconds_left(number, options.rounds))}"
        follow = None if number == 0 else _steered(steering, path, _followed(out, number - 1))
        with book.timed(number, "generation_seconds"):
            asked, titled = dataclasses.replace(images, images=ends[number]), _Titled(display, title)
            store, _ = generate(path, asked, labels, run, titled, tell_recipe if number == 0 else None, follow)
        given = {**training, **({} if last else _short(options))}
        if options.warm and number > 0 and not last:
            given["start_from"] = str(_followed(out, number - 1))
        with book.timed(number, "training_seconds"):
            summary = train_student(store, given, out / FINAL if last else _followed(out, number), f"{title}:")
        book.note(number, {**_facts(store, number, ends[number]), "top1": summary.get("top1")})
    return {"rounds": book.lines(options.rounds), "student": summary, "store": path, "out": str(out)}


class Book:
    """What is known of each round, in a file that is replaced whole: seconds add up over interruptions."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._rounds: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}

    def lines(self, rounds: int) -> list[dict[str, Any]]:
        return [{"round": number, **self._rounds.get(str(number), {})} for number in range(rounds)]

    def knows(self, number: int) -> bool:
        """Whether a round came to its end."""
        return "images" in self._rounds.get(str(number), {})

    def note(self, number: int, facts: Mapping[str, Any]) -> None:
        self._rounds[str(number)] = {**self._rounds.get(str(number), {}), **facts}
        write_file(self.file, (json.dumps(self._rounds, indent=2) + "\n").encode())

    def seconds_left(self, number: int, rounds: int) -> float | None:
        """About how long rounds ``number`` and later will take, by the last one; None before there was one. A student's time
        grows with the images so far."""
        last = self._rounds.get(str(number - 1), {})
        if not {"generation_seconds", "training_seconds"} <= last.keys():
            return None
        trained = sum(last["training_seconds"] * (one + 1) / number for one in range(number, rounds))
        return last["generation_seconds"] * (rounds - number) + trained

    @contextmanager
    def timed(self, number: int, what: str) -> Iterator[None]:
        """Add the seconds that pass to ``what``, however this ends, until the round has come to its end. A process that is killed
        takes its seconds with it."""
        if self.knows(number):
            yield
            return
        start, before = time.monotonic(), self._rounds.get(str(number), {}).get(what, 0.0)
        try:
            yield
        finally:
            self.note(number, {what: round(before + time.monotonic() - start, 1)})


class _Titled:
    """A display whose tasks say which round they belong to."""

    def __init__(self, display: Display, title: str) -> None:
        self._display, self._title = display, title
        self.notice = display.notice

    def task(self, description: str, total: int, done: int = 0, unit: str = "images") -> Any:
        return self._display.task(f"{self._title}: {description}", total, done, unit)


def _about(seconds: float | None) -> str:
    """How long all will take, for a title."""
    return "" if seconds is None else f" (about {max(1, round(seconds / 60)):,} min in all)"


def _steered(steering: RoundOptions, path: str, student: Path) -> RoundOptions:
    recipe = Recipe.from_json(open_store(path).recipe)
    return dataclasses.replace(or_recommended(steering, recipe), follow=str(student))


def _followed(out: Path, number: int) -> Path:
    return out / f"round-{number}"


def _short(options: DistilOptions) -> dict[str, Any]:
    """The length of a student that is followed, if it is another than the last one's."""
    if options.follow_updates is not None:
        return {"updates": options.follow_updates, "epochs": None}
    return {} if options.follow_epochs is None else {"epochs": options.follow_epochs, "updates": None}


def _rounds_past(path: str, ends: Sequence[int], book: "Book") -> int:
    """How many rounds the store has gone beyond: their images are made, and their students too, which the next ones follow.

    Raises ``UsageError`` if it was made in other rounds, or if nothing is known of them."""
    if not store_exists(path):
        return 0
    store = open_store(path)
    bounds = [(one.start, one.stop) for one in store.rounds]
    if bounds != list(pairwise(ends))[: len(bounds)] or (not bounds and store.num_images > ends[0]):
        raise UsageError(
            f"{path} was not made in such rounds: give another --store, or the --images and --rounds that it was made with."
        )
    if not all(book.knows(number) for number in range(len(bounds))):
        raise UsageError(
            f"{book.file.parent} is not where the students of {path} are: give the --out that it was made with."
        )
    return len(bounds)


def _facts(store: Store, number: int, end: int) -> dict[str, Any]:
    """Of the images of a round: how many, how many the teacher agrees on, their mean score."""
    start = store.rounds[number - 1].start if number else 0
    ids = np.arange(start, end)
    ids = ids[np.linspace(0, len(ids) - 1, min(len(ids), MOST_LOOKED_AT)).astype(int)]
    labels = next((one for one in store.labels.values() if one.fitted), None)
    agreement = None if labels is None else float((labels.quality[ids][:, 0] == store.class_ids[ids]).mean())
    score = float(store.columns[SCORE][ids].mean()) if number else None
    return {"images": end - start, "agreement": agreement, "score": score}
