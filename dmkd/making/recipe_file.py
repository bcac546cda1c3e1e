"""Recipes as files: what `dmkd generate` was asked for, by the names of its options, in TOML or JSON."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dmkd.recipes.generator_args import written_arguments
from dmkd.recipes.id_ranges import id_ranges
from dmkd.recipes.option_file import read_option_file
from dmkd.recipes.other_vae import without_vae
from dmkd.recipes.recipe import Recipe
from dmkd.stores import LabelSet, Store, UsageError, ViewSet, open_store
from dmkd.views.policy import ViewPolicy, ViewsWanted, parse_views

if TYPE_CHECKING:
    from dmkd.making.asked import LabelOptions
    from dmkd.making.label_sets import LabelRequest
    from dmkd.making.resolve import WantedImages

WHOLE, NUMBER, TEXT, TEXTS = "a whole number", "a number or a text", "a text", "a text or a list of texts"
FLAG = "true or false"

# Every key, in the order in which recipes are written: the option of the same name, and what it takes.
KEYS = {
    "generator": TEXT,
    "generator-arg": TEXTS,
    "vae": TEXT,
    "images": WHOLE,
    "classes": TEXT,
    "class-names": TEXTS,
    "prompt": TEXTS,
    "negative-prompt": TEXT,
    "image-size": WHOLE,
    "sampler": TEXT,
    "steps": WHOLE,
    "guidance": NUMBER,
    "guidance-interval": TEXT,
    "guided-channels": WHOLE,
    "seed": WHOLE,
    "dtype": TEXT,
    "vae-dtype": TEXT,
    "sub-batch": WHOLE,
    "compile": FLAG,
    "block-size": WHOLE,
    "size": WHOLE,
    "image-codec": TEXT,
    "teacher": TEXTS,
    "teacher-precision": TEXT,
    "teacher-prompt": TEXTS,
    "views": TEXT,
    "view-seed": WHOLE,
    "codec": TEXT,
}


def start_from(recipe: str | None, like: str | None) -> dict[str, Any]:
    """The options that a recipe file and another store give, key -> value; the file's win. Raises what reading them does."""
    options = {} if like is None else recipe_of(open_store(like))
    return options if recipe is None else options | read_recipe(recipe)


def read_recipe(path: str) -> dict[str, Any]:
    """The options that a TOML or JSON file sets: key -> value, what may be repeated always a list.

    Raises ``UsageError`` for a file that can't be read, an unknown key or a value of another type.
    """
    values = read_option_file(path, "The recipe")
    for key, value in values.items():
        if key not in KEYS:
            raise UsageError(f"The recipe {path} has the unknown key {key!r}; known are {', '.join(KEYS)}.")
        if not _fits(value, KEYS[key]):
            raise UsageError(f"The recipe {path}: {key} must be {KEYS[key]}, not {json.dumps(value, default=str)}.")
    for key in ("generator-arg", "teacher", "prompt", "teacher-prompt"):
        if isinstance(values.get(key), str):
            values[key] = [values[key]]
    return values


def recipe_of(store: Store) -> dict[str, Any]:
    """The options that would make a store like this one: its images' recipe, number and block size, and the teachers,
    views and codec of its first label set, with the teachers of those that share views and codec with it.

    Raises ``UsageError`` if no generator made it.
    """
    if not store.source:
        raise UsageError(f"{store.path} was not made by a generator, so it gives no recipe for one.")
    recipe = Recipe.from_json(store.recipe).to_json()  # with the fields that are younger than the store
    options: dict[str, Any] = {
        **_generator_options(store.source),
        "images": store.num_images,
        "block-size": store.block_size,
    }
    for key in KEYS:
        value = recipe.get(key.replace("-", "_"))
        if key not in options and value is not None:
            options[key] = value
    options |= written_ranges(recipe) | _class_options(recipe, store.class_names)
    label_sets = list(store.labels.values())
    # The first view set holds the teacher's own view: sets of labels begin there.
    label_sets.sort(key=lambda label_set: not store.views[label_set.view_set].attributes["first"])
    options["teacher"] = ["none"]
    if label_sets:
        views, codec = store.views[label_sets[0].view_set], label_sets[0].codec
        alike = [one for one in label_sets if _alike(one, label_sets[0])]
        templates = next(filter(None, map(_templates, alike)), None)
        alike = [one for one in alike if _templates(one) in (None, templates)]
        alike.sort(key=lambda label_set: not _made_views(label_set, views))
        options["teacher"] = [label_set.source for label_set in alike]
        policy = ViewPolicy.from_json(views.attributes["policy"])
        options["views"] = str(ViewsWanted(policy, views.attributes["size"]))
        if views.attributes["seed"] != recipe["seed"]:
            options["view-seed"] = views.attributes["seed"]
        options["codec"] = str(codec)
        options["teacher-precision"] = label_sets[0].precision
        options["teacher-prompt"] = templates
    return in_order(options)


def _alike(one: LabelSet, other: LabelSet) -> bool:
    """Whether one run makes both label sets, but for the teachers."""
    return (one.view_set, one.codec, one.precision) == (other.view_set, other.codec, other.precision)


def _templates(labels: LabelSet) -> list[str] | None:
    """The templates of a teacher that is made of words; None: of another."""
    return labels.teacher.get("prompts", {}).get("templates")


def _made_views(label_set: LabelSet, views: ViewSet) -> bool:
    """Whether the views may be this teacher's: the first teacher of a run sets their size and its own view."""
    preprocessing = label_set.teacher.get("preprocessing", {})
    own = {"size" if key == "input_size" else key: value for key, value in preprocessing.items()}
    return all(own[key] == views.attributes[key] for key in own.keys() & views.attributes.keys())


def resolved_options(wanted: "WantedImages", request: "LabelRequest", labels: "LabelOptions") -> dict[str, Any]:
    """Every option of `dmkd generate` as it comes out, by name: what a recipe file may hold."""
    if wanted.store is not None:
        options = recipe_of(wanted.store) | {"images": wanted.num_images}
        new = [teacher.source for teacher in request.teachers if teacher.source not in options["teacher"]]
        if new:
            options["teacher"] = [name for name in options["teacher"] if name != "none"] + new
            first: dict[str, Any] = {"views": _views_of(wanted.defaults["views"], request), "codec": str(request.codec)}
            first |= {"teacher-precision": request.teachers[0].precision, "teacher-prompt": _templates_of(request)}
            asked = {"views": labels.views, "view-seed": labels.view_seed, "codec": labels.codec}
            asked |= {"teacher-precision": labels.teacher_precision}
            options = first | options | {key: value for key, value in asked.items() if value is not None}
        return in_order(options)
    recipe = wanted.recipe.to_json()
    options = {
        **_generator_options(wanted.source.text),
        "images": wanted.num_images,
        "block-size": wanted.block_size,
        "teacher": [teacher.source for teacher in request.teachers] or ["none"],
    }
    for key in KEYS:
        if key not in options and (value := recipe.get(key.replace("-", "_"))) is not None:
            options[key] = value
    if request.teachers:
        options["views"] = _views_of(labels.views or wanted.defaults["views"], request)
        options |= {"view-seed": labels.view_seed, "codec": str(request.codec)}
        options |= {"teacher-precision": request.teachers[0].precision, "teacher-prompt": _templates_of(request)}
    return in_order(options | written_ranges(recipe) | _class_options(recipe, wanted.classes.names))


def _views_of(text: str, request: "LabelRequest") -> str:
    """What ``--views`` says with the size that it comes to on a store without views."""
    views = parse_views(text)
    return str(replace(views, size=views.size or request.teachers[0].input_size))


def _templates_of(request: "LabelRequest") -> list[str] | None:
    """Those of the teachers that are made of words, if there are any."""
    return next((list(teacher.prompts.templates) for teacher in request.teachers if teacher.prompts), None)


def _generator_options(source: str) -> dict[str, Any]:
    """The options that name a generator, as a store's source does."""
    generator, vae = without_vae(source)
    return {"generator": generator, "vae": vae}


def _class_options(recipe: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """The options that say what a generator is told of its classes, those of ``class_names``; and the arguments of a plug-in."""
    chosen = recipe["classes"] if recipe.get("compact_classes") else None
    if recipe.get("prompts"):
        dropped = {"classes": None} if chosen else {}  # their names are all that there are
        return dropped | {"class-names": list(class_names), "prompt": list(recipe["prompts"])}
    arguments = recipe.get("generator_args")
    options: dict[str, Any] = {"image-size": None}
    if arguments:
        options["generator-arg"] = written_arguments(arguments)
    if recipe.get("class_names_sha256"):
        names = [f"class {number}" for number in range(recipe["num_classes"])]  # those of the others are not kept
        for number, name in zip(chosen or range(len(names)), class_names, strict=True):
            names[number] = name
        options["class-names"] = names
    return options


def written_ranges(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe holds as lists, as its options are written: ``classes``, ``guidance``, ``guidance-interval``."""
    options: dict[str, Any] = {}
    if recipe.get("classes") is not None:
        options["classes"] = id_ranges(recipe["classes"])
    for field, key in (("guidance", "guidance"), ("guidance_interval", "guidance-interval")):
        if isinstance(value := recipe.get(field), list | tuple):
            options[key] = ":".join(repr(end) for end in value)
    return options


def in_order(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are set, in the order in which recipes are written."""
    return {key: options[key] for key in KEYS if options.get(key) is not None}


def to_toml(options: Mapping[str, Any]) -> str:
    """Options as TOML, a line each, to be pasted into a file."""
    return "\n".join(f"{key} = {_toml(value)}" for key, value in options.items())


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        # TOML's basic strings escape as JSON's do, but for DEL, which JSON leaves as it is.
        return re.sub("\x7f", r"\\u007f", json.dumps(value, ensure_ascii=False))
    return repr(value)


def _fits(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or kind == FLAG:
        return isinstance(value, bool) and kind == FLAG
    if kind == TEXTS:
        return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))
    types: Any = {WHOLE: int, NUMBER: (int, float, str), TEXT: str}[kind]
    return isinstance(value, types) and not (isinstance(value, float) and math.isnan(value))
