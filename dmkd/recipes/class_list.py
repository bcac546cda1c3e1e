"""Classes that stores, teachers and folders share, found in one another: by WordNet id, by name, or by one of its synonyms.

ImageNet's classes have WordNet ids (``n01440764``), by which its folders are named; timm ships them in class order.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

from dmkd.recipes.class_names import IMAGENET, class_names_from, first_synonym

if TYPE_CHECKING:
    from dmkd.stores import Store

NUM_IMAGENET = 1000
_WNID = re.compile(r"n\d{8}")
# Lists of ImageNet's classes differ in a synonym here and there, but not in most of a thousand first names, in order.
_ALIKE = 0.9


@dataclass(frozen=True)
class ClassList:
    """Classes in the order of their ids."""

    names: tuple[str, ...]  # one a class, all its synonyms, comma-separated
    given_wnids: tuple[str, ...] | None = None
    # Of a subset: the ids of its classes among those of the generator, and how many that has.
    chosen_from: tuple[tuple[int, ...], int] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def wnids(self) -> tuple[str, ...] | None:
        """One a class, if all names are WordNet ids, or what timm calls classes of ImageNet; else None."""
        if self.given_wnids is not None:
            return self.given_wnids
        if all(is_wnid(name) for name in self.names):
            return self.names
        imagenet = imagenet_classes()
        if len(self.names) == NUM_IMAGENET:
            pairs = zip(self.names, imagenet.names, strict=True)
            alike = sum(first_synonym(name).lower() == first_synonym(other).lower() for name, other in pairs)
            return imagenet.wnids if alike >= _ALIKE * NUM_IMAGENET else None
        places = [imagenet._by_name.get(_key(name), ()) for name in self.names]
        if any(len(place) != 1 for place in places):
            return None
        return imagenet.subset([place for (place,) in places]).given_wnids

    def find(self, text: str) -> tuple[int, ...]:
        """The classes that a text may mean: that of this WordNet id, else those of this name, else those with this synonym."""
        if is_wnid(text) and self.wnids is not None:
            return tuple(number for number, wnid in enumerate(self.wnids) if wnid == text)
        return self._by_name.get(_key(text)) or self._by_synonym.get(_key(text), ())

    def places_in(self, other: "ClassList") -> list[int | None]:
        """Each class's id in another list; None if it is not there, or if it can't be told which one it is."""
        if self.wnids is not None and other.wnids is not None:
            there = {wnid: number for number, wnid in enumerate(other.wnids)}
            return [there.get(wnid) for wnid in self.wnids]
        found = [other._one_of(name) for name in self.names]
        taken = Counter(found)
        return [place if taken[place] == 1 else None for place in found]

    def subset(self, ids: Sequence[int]) -> "ClassList":
        """Some of the classes, numbered anew; their names remember which they were."""
        wnids = None if self.wnids is None else tuple(self.wnids[number] for number in ids)
        return ClassList(tuple(self.names[number] for number in ids), wnids, (tuple(ids), len(self)))

    def _one_of(self, name: str) -> int | None:
        places = self.find(name) or {place for synonym in name.split(",") for place in self.find(synonym)}
        return next(iter(places)) if len(places) == 1 else None

    @cached_property
    def _by_name(self) -> dict[str, tuple[int, ...]]:
        return _index([[name] for name in self.names])

    @cached_property
    def _by_synonym(self) -> dict[str, tuple[int, ...]]:
        return _index([name.split(",") for name in self.names])


def classes_of(store: "Store") -> ClassList:
    """The classes of a store."""
    recipe = store.recipe
    chosen = (tuple(recipe["classes"]), recipe["num_classes"]) if recipe.get("compact_classes") else None
    return ClassList(tuple(store.class_names), store.class_wnids, chosen)


def is_wnid(text: str) -> bool:
    """Whether a text has the form of a WordNet id."""
    return _WNID.fullmatch(text) is not None


@cache
def imagenet_classes() -> ClassList:
    """ImageNet's 1000 classes."""
    from timm.data import ImageNetInfo

    return ClassList(class_names_from(IMAGENET), tuple(ImageNetInfo().label_names()))


def _index(names: Sequence[Sequence[str]]) -> dict[str, tuple[int, ...]]:
    """What a class may be called -> the classes that are called so."""
    found: defaultdict[str, tuple[int, ...]] = defaultdict(tuple)
    for number, called in enumerate(names):
        for key in dict.fromkeys(map(_key, called)):
            found[key] += (number,)
    return dict(found)


def _key(name: str) -> str:
    """A name without what differs between folders and lists: capitals, underscores for spaces."""
    return " ".join(name.replace("_", " ").casefold().split())
