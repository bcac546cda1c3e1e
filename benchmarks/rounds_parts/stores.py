"""What students learn from: conditions, and the stores that hold their images."""

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate
from dmkd.recipes.rounds import RoundOptions
from dmkd.runtime.progress import Silent
from dmkd.stores import open_store, store_exists

TEACHER = "digits-resnet"
OF_DIGITS = ",scale=0.6:1,ratio=0.9:1.1,flip=0"  # as dmkd/digits/pipeline/defaults.json has it
VIEWS = {"center": "center", "rrc:4": f"rrc:4{OF_DIGITS}", "rrc:32+cutmix": f"rrc:32+cutmix{OF_DIGITS}"}
SUB_BATCH = 50  # divides most rounds; also the images of a turn of the stopwatch
HERE = RunOptions(workers=0, device="cpu")

BLIND = "blind"
CHEAP: dict[str, Any] = {"candidates": 4, "candidate_steps": 5}
SETTINGS: dict[str, dict[str, Any]] = {
    "4 candidates": {"candidates": 4},
    "4 cheap": CHEAP,
    "8 cheap": {**CHEAP, "candidates": 8},
    "gradient 0.1": {"strength": 0.1},
    "gradient 0.03": {"strength": 0.03},
    "gradient 0.3 or less": {"strength": 0.3, "agreement": 0.4},
    "shares 0.5": {"class_shares": 0.5},
    "shares 1": {"class_shares": 1.0},
    "class guidance": {"class_guidance": "1:4", "agreement": 0.8},
    "4 cheap, shares 0.5": {**CHEAP, "class_shares": 0.5},
    "4 cheap, shares 0.5, gradient 0.1": {**CHEAP, "class_shares": 0.5, "strength": 0.1},
    "4 of 2 steps, shares 0.5": {"candidates": 4, "candidate_steps": 2, "class_shares": 0.5},
    "2 cheap, shares 0.5": {"candidates": 2, "candidate_steps": 5, "class_shares": 0.5},
    "gradient 0.2 at 200:500": {"strength": 0.2, "window": "200:500"},
    "4 cheap by entropy": {**CHEAP, "score": "entropy"},
    "4 cheap by learnability": {**CHEAP, "score": "learnability"},
    "4 cheap by kl:1": {**CHEAP, "score": "kl:1"},
}


@dataclass(frozen=True)
class Condition:
    """What students are trained on, but for the draw."""

    setting: str = BLIND
    images: int = 300
    rounds: int = 2  # of a setting that is not blind
    views: str = "rrc:4"
    guidance: float = 1.0

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Condition":
        """From a row that has its fields among others."""
        return cls(**{field.name: row[field.name] for field in dataclasses.fields(cls)})

    @property
    def first(self) -> int:
        """Images of the blind round."""
        return self.images // self.rounds

    def blind(self, images: int | None = None) -> "Condition":
        """Of as many images, or of this number."""
        return replace(self, setting=BLIND, rounds=1, images=self.images if images is None else images)

    def __str__(self) -> str:
        words = [f"{self.images:,} images"] + ([] if self.setting == BLIND else [f"{self.rounds} rounds"])
        words += [] if self.views == "rrc:4" else [self.views]
        return ", ".join(words + ([] if self.guidance == 1 else [f"guidance {self.guidance:g}"]))


class Stores:
    """Where a condition's images are: made once, and shared where two conditions begin alike."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def folder(self, condition: Condition, draw: int) -> Path:
        views = condition.views.replace(":", "").replace("+", "-")
        return self.out / f"draw{draw}" / f"{views}-guidance{condition.guidance:g}"

    def path(self, condition: Condition, draw: int) -> Path:
        """The store that holds the images; a blind one may hold more."""
        name = condition.setting.replace(":", "").replace(", ", "-").replace(" ", "-")
        size = "" if condition.setting == BLIND else f"-{condition.images}-in-{condition.rounds}"
        return self.folder(condition, draw) / f"{name}{size}.zarr"

    def first(self, condition: Condition, draw: int) -> Path:
        return self.folder(condition, draw) / f"first-{condition.first}.zarr"

    def followed(self, condition: Condition, draw: int, number: int) -> Path:
        """The run of the student that a round follows."""
        if number == 1:
            return self.first(condition, draw).with_suffix(".student")
        return self.path(condition, draw).with_suffix(f".student{number}")

    def blind(self, path: Path, condition: Condition, draw: int, images: int, block_size: int) -> None:
        """Make or grow a store of blind images."""
        if store_exists(str(path)):
            asked = ImageOptions(images=images)
        else:
            asked = ImageOptions(
                generator="digits",
                images=images,
                sampler="ddim",
                steps=20,
                guidance=condition.guidance,
                seed=draw,
                sub_batch=SUB_BATCH,
                block_size=block_size,
            )
        if not is_whole(path, images):
            generate(str(path), asked, LabelOptions((TEACHER,), VIEWS[condition.views]), HERE, Silent())

    def round(self, condition: Condition, draw: int, number: int) -> None:
        """Make round ``number`` of a store, whose followed student is there."""
        path = self.path(condition, draw)
        stop = condition.images if number == condition.rounds - 1 else condition.first * (number + 1)
        if not path.exists():
            copy = path.with_suffix(".copy")
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(self.first(condition, draw), copy)
            copy.rename(path)
        if len(open_store(str(path)).rounds) <= number and not is_whole(path, stop):
            follow = str(self.followed(condition, draw, number) / "student")
            asked = RoundOptions(follow, **SETTINGS[condition.setting])
            generate(str(path), ImageOptions(images=stop), LabelOptions(), HERE, Silent(), round_options=asked)

    def seconds(self, condition: Condition, draw: int) -> list[float]:
        """Of each round, for images, their scores and labels, by the store's log: a round is a block."""
        made = [row for run in open_store(str(self.path(condition, draw))).runs() for row in run["blocks"]]
        return [sum(row[2] for row in made if row[0] == number) for number in range(condition.rounds)]


def is_whole(path: Path, images: int) -> bool:
    """Whether a store has that many images, with labels."""
    if not store_exists(str(path)):
        return False
    store = open_store(str(path))
    sets = list(store.labels.values())
    return store.num_images >= images and bool(sets) and not any(one.missing_blocks() for one in (store, *sets))
