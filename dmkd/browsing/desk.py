"""Where the page asks: a question by name, with words for its details, and an answer in JSON or a picture. The web server and the
notebook's widget both carry questions here."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from dmkd.browsing import one_image, summaries
from dmkd.browsing.live import LiveRuns
from dmkd.browsing.live_training import LiveTraining
from dmkd.browsing.query import PAIRS, Finder, numbers, query_from, rule_of
from dmkd.browsing.saving import save
from dmkd.browsing.side_by_side import side_by_side
from dmkd.browsing.sources import NO_CLASS
from dmkd.browsing.table import Table
from dmkd.browsing.thumbnails import SIZES, Thumbnails, encoded
from dmkd.stores import DmkdError, MissingBlockError, Store, UsageError
from dmkd.stores.locations import scheme
from dmkd.stores.showing.facts import teacher_in_words

MOST_ROWS = 512
IDLE_SECONDS = 3.0
POLLED = ("status", "runs", "training")  # that nobody waits for

Asked = Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """``status`` as HTTP has it: 200, 400 for what was asked wrongly, 404, 500 for what failed."""

    body: bytes
    media_type: str = "application/json"
    status: int = 200


class _Opened:
    """One store, and what is kept about it."""

    def __init__(self, path: str) -> None:
        self.table = Table(path)
        self.finder = Finder(self.table)
        self.histograms = summaries.Histograms(self.table)
        self._pictures = Thumbnails(self.store)
        self.live = LiveRuns()

    @property
    def store(self) -> Store:
        return self.table.store

    @property
    def pictures(self) -> Thumbnails:
        if self._pictures.store is not self.store:  # it has grown, or was packed
            self._pictures = Thumbnails(self.store)
        return self._pictures


class Desk:
    """Answers questions about some stores. Threads may share it."""

    def __init__(self, paths: Sequence[str], runs: Sequence[str] = ()) -> None:
        """``runs``: folders of training runs, beside those in ``students`` here and beside the stores. Raises what opening a
        store raises, and ``UsageError`` for a run's folder that there is not."""
        beside = [Path(path).parent / "students" for path in paths if not scheme(path)]
        self._training = LiveTraining(runs, [Path("students"), *beside])
        self._opened = [_Opened(path) for path in paths]
        self._last_question = time.monotonic()
        self._is_warm = False
        self.questions: dict[str, Callable[[Asked], Any]] = {
            "stores": self._stores,
            "status": self._status,
            "query": self._query,
            "rows": self._rows,
            "thumbs": self._thumbs,
            "image": self._image,
            "pixels": self._pixels,
            "views": self._views,
            "classes": self._classes,
            "confusion": self._confusion,
            "pairs": self._pairs,
            "beside": self._beside,
            "save": self._save,
            "runs": self._runs,
            "training": lambda asked: self._training.facts(asked["open"].split(",") if "open" in asked else None),
        }

    def follow(self) -> None:
        """Begin to read the stores, and what comes to them."""
        for one in self._opened:
            one.table.follow()

    def _warm_up(self) -> None:
        """Import what draws views before the first image is opened, in a moment in which nobody waits for anything: torch takes
        seconds, in which Python does little else."""
        is_idle = time.monotonic() - self._last_question > IDLE_SECONDS and all(
            one.table.is_read for one in self._opened
        )
        if is_idle and not self._is_warm:
            self._is_warm = True
            Thread(target=lambda: import_module("dmkd.views.render"), daemon=True, name="warm up").start()

    def answer(self, question: str, asked: Asked) -> Answer:
        """Never raises: what can't be answered is said in a sentence, as JSON ``{"error": ...}``."""
        if question not in self.questions:
            return _refusal(f"The page asked for {question!r}, which there is not.", 404)
        if question not in POLLED:
            self._last_question = time.monotonic()
        try:
            found = self.questions[question](asked)
        except MissingBlockError as error:
            return _refusal(str(error), 404)
        except UsageError as error:
            return _refusal(str(error), 400)
        except DmkdError as error:
            return _refusal(str(error), 500)
        except (OSError, MemoryError) as error:
            return _refusal(f"{type(error).__name__}: {error}", 500)
        if isinstance(found, tuple):
            return Answer(*found)
        return Answer(json.dumps(found, allow_nan=False).encode())

    # What there is

    def _stores(self, asked: Asked) -> Any:
        return [self._described(one) for one in self._opened]

    def _described(self, opened: _Opened) -> dict[str, Any]:
        store = opened.store
        recipe = store.recipe
        return {
            "path": store.path,
            "identity": store.identity,
            "lineage": store.lineage,
            "num_images": store.num_images,
            "image_shape": list(store.image_shape),
            "class_names": store.class_names,
            "generator": recipe.get("generator") or recipe.get("source"),
            "seed": recipe.get("seed"),
            "view_sets": {name: one.num_views for name, one in store.views.items()},
            "label_sets": {
                name: {"teacher": teacher_in_words(one.teacher), "view_set": one.view_set, "codec": str(one.codec)}
                for name, one in store.labels.items()
                if one.fitted
            },
            "columns": {name: one.description for name, one in store.columns.items()},
            "selections": store.selections,
            "rounds": len(store.rounds),
            "sizes": list(SIZES),
        }

    def _status(self, asked: Asked) -> Any:
        self._warm_up()
        found = []
        for one in self._opened:
            one.table.look_again()
            table = one.table
            found.append(
                {
                    "version": table.version,
                    "num_images": len(table.class_ids),
                    "images_made": int(np.count_nonzero(table.class_ids != NO_CLASS)),
                    "blocks_made": table.blocks_made,
                    "num_blocks": table.store.num_blocks,
                    "blocks_to_read": table.blocks_to_read,
                    "sets": [sorted(table.quality), sorted(table.columns), sorted(table.store.selections)],
                    "problems": [*([table.problem] if table.problem else []), *dict.fromkeys(table.damaged)][:20],
                }
            )
        return found

    # Images by what is known of them

    def _query(self, asked: Asked) -> Any:
        opened, query = self._of(asked), query_from(asked)
        start = time.perf_counter()
        try:
            ids = opened.finder.find(query)
        except UsageError as error:  # a rule that is being typed: no fault of the page
            return {"error": str(error)}
        found = time.perf_counter() - start
        table = opened.table
        return {
            "count": len(ids),
            "of": int(np.count_nonzero(table.class_ids != NO_CLASS)),
            "version": table.version,
            "histograms": opened.histograms.of(query.judge, ids),
            "agreement": summaries.agreement(table, query.judge, ids),
            "needs_teacher": bool(query.rule.strip()) and rule_of(query.rule, table).needs_teacher,
            "milliseconds": round(1000 * found, 1),
        }

    def _rows(self, asked: Asked) -> Any:
        opened, query = self._of(asked), query_from(asked)
        start, count = _whole(asked, "start"), min(_whole(asked, "count"), MOST_ROWS)
        ids = opened.finder.find(query)[start : start + count]
        return self._captions(opened, ids, query.judge, query.versus, query.sort)

    def _captions(
        self, opened: _Opened, ids: np.ndarray, judge: str | None, versus: str | None, sort: str = ""
    ) -> dict[str, Any]:
        """Of each image what stands below it; NaN as None."""
        table = opened.table
        with table.lock:
            rows: dict[str, Any] = {"ids": ids.tolist(), "class_ids": table.class_ids[ids].tolist()}
            for name, judged in (("opinion", judge), ("other", versus)):
                if judged is not None and judged in table.quality:
                    rows[name] = [_listed(quality) for quality in table.quality[judged][ids]]
            if sort in table.columns:
                rows["column"] = _listed(table.columns[sort][ids])
        return rows

    def _thumbs(self, asked: Asked) -> Any:
        size = _whole(asked, "size")
        if size not in SIZES:
            raise UsageError(f"Pictures have {', '.join(map(str, SIZES))} pixels, not {size}.")
        if not (ids := numbers(asked.get("ids", ""))):
            raise UsageError("Pictures of which images? Give their numbers, as in 7,3,100.")
        return self._of(asked).pictures.sheet(ids, size)

    def _classes(self, asked: Asked) -> Any:
        opened, query = self._of(asked), query_from(asked)
        return summaries.class_rows(opened.table, query.judge, opened.finder.find(query))

    def _confusion(self, asked: Asked) -> Any:
        opened, query = self._of(asked), query_from(asked)
        if query.judge is None:
            raise UsageError(
                f"{opened.store.path} has no labels, so nothing is taken for anything: run dmkd label first."
            )
        return summaries.confusion(opened.table, query.judge, opened.finder.find(query))

    def _pairs(self, asked: Asked) -> Any:
        opened, query = self._of(asked), query_from(asked)
        if query.judge is None or query.versus is None:
            raise UsageError("Comparing takes two teachers: choose two label sets.")
        counts = summaries.pair_counts(opened.table, query.judge, query.versus, opened.finder.find(query))
        return {"counts": counts, "pairs": list(PAIRS)}

    # One image

    def _image(self, asked: Asked) -> Any:
        try:
            temperature = float(asked.get("temperature", "1"))
        except ValueError:
            raise UsageError(f"The temperature must be a number, not {asked['temperature']!r}.") from None
        return one_image.image_facts(self._of(asked).store, _whole(asked, "id"), temperature)

    def _pixels(self, asked: Asked) -> Any:
        return encoded(self._of(asked).store.images[[_whole(asked, "id")]][0], lossless=True)

    def _views(self, asked: Asked) -> Any:
        return one_image.views_picture(self._of(asked).store, _whole(asked, "id"), asked.get("view_set", ""))

    # Several stores

    def _beside(self, asked: Asked) -> Any:
        wanted = numbers(asked.get("classes", ""))
        start, count = _whole(asked, "start"), min(_whole(asked, "count"), MOST_ROWS)
        return side_by_side([one.table for one in self._opened], wanted, start, count)

    # What goes on

    def _runs(self, asked: Asked) -> Any:
        opened = self._of(asked)
        return opened.live.facts(opened.store, asked.get("open", "").split(","))

    # Keeping

    def _save(self, asked: Asked) -> Any:
        opened = self._of(asked)
        return save(opened.finder, query_from(asked), asked.get("name", ""))

    def _of(self, asked: Asked) -> _Opened:
        number = _whole(asked, "store")
        if number >= len(self._opened):
            raise UsageError(f"There is no store {number} on this page.")
        return self._opened[number]


def _whole(asked: Asked, name: str) -> int:
    """A number from 0; absent: 0. Raises ``UsageError``."""
    text = asked.get(name) or "0"
    if not text.isdecimal() or len(text) > 15:
        raise UsageError(f"{name} must be a whole number from 0, not {text!r}.")
    return int(text)


def _listed(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _refusal(sentence: str, status: int) -> Answer:
    return Answer(json.dumps({"error": sentence}).encode(), status=status)
