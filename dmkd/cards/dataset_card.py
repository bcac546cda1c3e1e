"""The data set's card: what is in a store, how it was made, its limits, and how to read it. Markdown with the YAML front
matter of a Hugging Face data set card.

It is kept in the store, as the attribute ``readme`` of its group ``card``, and is not part of any identity.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from dmkd.cards.licences import UNKNOWN, front_matter, generator_licence
from dmkd.cards.markdown import markdown_table
from dmkd.cards.round_section import round_section
from dmkd.recipes.id_ranges import id_ranges
from dmkd.stores import DamagedChunkError, LabelSet, Store
from dmkd.stores.opinions import average_opinion, sample_size, sampled
from dmkd.stores.showing.facts import quality_view_facts, quality_view_in_words, teacher_in_words
from dmkd.stores.tags import read_tags

NAMES_SHOWN = 20  # class names in the text

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def write_card(store: Store, licence: str | None = None) -> str:
    """Write the card of what is in the store now, and return it. ``licence`` None: the one given before, or what
    is known about the generator."""
    licence = card_licence(store, licence)
    readme = card_text(store, licence)
    store.write_card(readme, licence)
    return readme


def card_licence(store: Store, said: str | None = None) -> str:
    """The licence to name: the one given now, the one on the store's card, or what is known about the generator."""
    if said and said.strip():
        return " ".join(said.split())
    before = store.card.get("licence", UNKNOWN)
    return generator_licence(store) if before == UNKNOWN else before


def card_text(store: Store, licence: str) -> str:
    """The card of a store, as Markdown."""
    sections = [
        _intro(store),
        *_contents(store),
        *_making(store),
        *round_section(store),
        *_reading(store, _name(store)),
        *_limits(store),
        *_rights(store, licence),
    ]
    return _front(store, licence, {}) + "\n\n".join(sections) + "\n"


def hub_card(store: Store, path: str, preview: str, previewed: int) -> str:
    """The card of a store that is published at ``path`` (hf://…), where the files ``preview`` hold its first ``previewed``
    images as Parquet, which the hub's viewer shows."""
    licence = card_licence(store)
    configs = [{"config_name": "preview", "data_files": [{"split": "train", "path": preview}]}]
    sections = [
        _intro(store),
        f"The viewer, and `datasets.load_dataset`, show a preview: the first {previewed:,} images as JPEG, with the logits of "
        "each teacher's first view. The data set is the store, in the folders beside it.",
        *_contents(store),
        *_making(store),
        *round_section(store),
        *_reading(store, path),
        f"`dmkd pull {path}` copies it to a disk, where training is fastest.",
        *_limits(store),
        *_rights(store, licence),
    ]
    return _front(store, licence, {"configs": configs}) + "\n\n".join(sections) + "\n"


def export_card(store: Store, export: Mapping[str, Any]) -> str:
    """The card of an export of a store: ``export`` has what :mod:`dmkd.export` records, ``images`` and ``data_files``."""
    licence = card_licence(store)
    configs = [{"config_name": "default", "data_files": [{"split": "train", "path": export["data_files"]}]}]
    sections = [
        _intro(store),
        *_exported(export),
        *_contents(store),
        *_making(store),
        *round_section(store),
        *_limits(store),
        *_rights(store, licence),
    ]
    return _front(store, licence, {"configs": configs}, export["images"]) + "\n\n".join(sections) + "\n"


# Below: the parts


def _front(store: Store, licence: str, more: Mapping[str, Any], images: int | None = None) -> str:
    from huggingface_hub import DatasetCardData

    count = images if images is not None else _made(store)
    made_up = ["synthetic"] if store.recipe.get("generator") else []
    made_up += ["diffusion"] if store.recipe.get("sampler") else []
    fields: dict[str, Any] = {
        **front_matter(licence),
        "pretty_name": _name(store),
        "task_categories": ["image-classification"],
        "annotations_creators": ["machine-generated"],
        "size_categories": [next((name for limit, name in _SIZES if count < limit), "10M<n<100M")],
        "tags": ["knowledge-distillation", *made_up, "dmkd"],
        **more,
    }
    data = DatasetCardData(**fields)
    return f"---\n{data.to_yaml().strip()}\n---\n\n"


def _intro(store: Store) -> str:
    height, width, _ = store.image_shape
    recipe = store.recipe
    images = f"{_made(store):,} RGB images of {width}x{height} pixels, {_classes(store)} classes"
    if recipe.get("source") == "import":
        origin = f"They are {recipe['files']:,} existing image files (layout: {recipe['layout']})"
    else:
        origin = f"They were made by the generator `{recipe.get('generator')}`: none is a photograph"
    labels = ", with a teacher's logits for every view" if store.labels else ", without a teacher's labels yet"
    return (
        f"# {_name(store)}\n\n{images}{labels}. {origin}.\n\n"
        "A data set for knowledge distillation, in dmkd's store format: a student network learns from the stored logits "
        "of teacher networks, which do not have to run again."
    )


def _contents(store: Store) -> list[str]:
    class_names = store.class_names
    shown = ", ".join(f"{number} {name}" for number, name in list(enumerate(class_names))[:NAMES_SHOWN])
    more = f", … {len(class_names) - 1} {class_names[-1]}" if len(class_names) > NAMES_SHOWN else ""
    missing = store.num_images - _made(store)
    facts = [
        (
            "images",
            f"{_made(store):,}" + (f" of {store.num_images:,}: {missing:,} have not been made yet" if missing else ""),
        ),
        ("pixels", f"uint8, {'x'.join(map(str, store.image_shape))}, written as {store.image_codec}"),
        ("classes", f"{_classes(store)}: {shown}{more}"),
        ("identity", f"`{store.identity}`"),
        *((f"tag {name}", f"sha256 `{tag.sha256}`") for name, tag in read_tags(store).items()),
    ]
    parts = ["## What is in it", markdown_table(("", ""), facts)]
    if views := store.views:
        rows = [(name, v.num_views, _policy(v.attributes), ", ".join(v.components)) for name, v in views.items()]
        parts.append(markdown_table(("view set", "views an image", "drawn as", "stored of each view"), rows))
    if labels := store.labels:
        label_rows = [_label_row(store, name) for name in labels]
        header = (
            "label set",
            "teacher",
            "weights (sha256)",
            "view set",
            "codec",
            "labelled",
            "agrees",
            "p(class)",
            "entropy",
        )
        parts.append(markdown_table(header, label_rows))
        parts.append(
            "*Agrees*: the share of images whose likeliest class, to the teacher, is the class asked for. *p(class)*: its mean "
            f"probability of that class. *Entropy*: of its softmax, in nats. {_seen_at(store)} Over "
            f"the images of at most {sample_size(store.path)} labelled blocks, spread evenly over the store."
        )
    return parts


def _label_row(store: Store, name: str) -> tuple[str, ...]:
    label_set = store.labels[name]
    missing = label_set.missing_blocks()
    seen = _average_opinion(store, label_set)
    labelled = sum(len(store.block_ids(block)) for block in set(range(store.num_blocks)) - set(missing))
    return (
        name,
        teacher_in_words(label_set.teacher),
        f"`{str(label_set.teacher.get('sha256', ''))[:16]}…`",
        f"{label_set.view_set} ({label_set.num_views})",
        str(label_set.codec),
        f"{labelled:,}",
        f"{seen['agreement']:.1%}" if seen else "",
        f"{seen['p_class']:.3f}" if seen else "",
        f"{seen['entropy']:.3f}" if seen else "",
    )


def _seen_at(store: Store) -> str:
    """What the quality of each label set is of, those that are alike together."""
    names: dict[str, list[str]] = {}
    for name, label_set in store.labels.items():
        facts = quality_view_facts(store.views[label_set.view_set], label_set)
        names.setdefault(quality_view_in_words(facts), []).append(f"`{name}`")
    if len(names) == 1:
        return f"All at {next(iter(names))}."
    return "; ".join(f"{', '.join(those)}: at {view}" for view, those in names.items()) + "."


def _average_opinion(store: Store, label_set: LabelSet) -> dict[str, float]:
    """What the teacher thinks of the images on average, over the sample that `dmkd inspect` takes; {} without labels."""
    opinions = label_set.opinions(sampled(store.path, label_set.labelled_blocks()))
    if opinions.damaged:
        raise DamagedChunkError(opinions.damaged[0])
    return average_opinion(opinions.class_ids, opinions.quality) if len(opinions.ids) else {}


def _making(store: Store) -> list[str]:
    """The recipe, field by field, and the versions."""
    recipe = [(f"`{key}`", _shown(value)) for key, value in store.recipe.items() if value is not None]
    versions = ", ".join(f"{name} {number}" for name, number in sorted(store.attributes["versions"].items()))
    updated = datetime.fromisoformat(store.attributes["updated"]).isoformat(timespec="seconds")
    made = f"Made from {store.attributes['created']} to {updated} (UTC)"
    return [
        "## How it was made",
        markdown_table(("field of the recipe", "value"), recipe),
        f"{made} with {versions or 'dmkd'}.",
    ]


def _reading(store: Store, name: str) -> list[str]:
    """Code that reads this very store, at the path ``name``."""
    lines = ["from dmkd.stores import open_store", "", f'store = open_store("{name}")']
    height, width, _ = store.image_shape
    lines += [
        f"store.images[[2, 0, 1]]  # uint8 (3, {height}, {width}, 3), RGB",
        "store.class_ids[:100]  # int32 (100,); store.class_names says what they mean",
    ]
    for label_set in list(store.labels.values())[:1]:
        views = store.views[label_set.view_set]
        shape = f"({views.num_views}, {len(views.components)})"
        lines += [
            f'store.labels["{label_set.name}"].logits([2, 0], view=0)  # float32 (2, {label_set.num_classes})',
            f'store.views["{label_set.view_set}"][0]  # float32 {shape}: {", ".join(views.components)}',
        ]
    return [
        "## How to read it",
        "With [Zarr](https://zarr.dev) alone, version 3 or later:",
        f'```python\nimport zarr\n\nzarr.open("{name}", mode="r")["images"][:64]\n```',
        "With dmkd, which verifies every row by its checksum:",
        "```python\n" + "\n".join(lines) + "\n```",
        "A view is a crop box (top, left, height, width, fractions of the image), a flip, and the other image's view if it is "
        "mixed with one; a teacher's logits belong to the view, not to the image. "
        f"`dmkd train-student --store {name}` trains on matching pairs, and `dmkd export` writes "
        "image folders, WebDataset shards or Parquet.",
    ]


def _exported(export: Mapping[str, Any]) -> list[str]:
    kind, images = export["format"], f"{export['images']:,} images"
    files = f"`{export['data_files']}`"
    chosen = f" for which `{export['select']['rule']}` holds" if export["select"] else ""
    quality = f"JPEG of quality {export['jpeg']}" if export["jpeg"] else "PNG, every pixel as in the store"
    head = f"This is an export of the store to `{kind}`: {images}{chosen}, as {quality}, named by image id, in {files}."
    rules = {
        "imagefolder": "One folder a class. `classes.txt` has the class names, class 0 first; `class_map.txt` the folders in "
        "that order, as timm's `--class-map` takes them.",
        "webdataset": "A sample has `.cls` (class id), `.json` (names, each teacher's quality, columns), and for each label set "
        "and view set, under its name, `.logits.npy` and `.views.npy`.",
        "parquet": "Columns `image`, `label` and `id`; by label set `_logits`, `_top1`, `_p_class` and `_entropy`; by view set "
        "`_views`; of each of the store's columns `column_` and its name.",
    }
    code = {
        "imagefolder": 'import torchvision\n\ntorchvision.datasets.ImageFolder(".")',
        "webdataset": 'import webdataset\n\nwebdataset.WebDataset("shard-000000.tar").decode("pil")',
        "parquet": 'from datasets import load_dataset\n\nload_dataset("parquet", data_files="*.parquet", split="train")',
    }
    parts = ["## The files", head, rules[kind]]
    if export.get("labels"):
        which = "all views" if export["views"] == "all" else "the first view of each image"
        parts.append(
            f"Logits are {export['dtype']}, of {which}; without dmkd's renderer they can only be used with the view's "
            "crop. Label sets whose codec drops classes (`topk`) are decoded for temperature 1."
        )
    return [*parts, f"```python\n{code[kind]}\n```"]


def _limits(store: Store) -> list[str]:
    lines = ["Nobody has looked at the images or corrected the classes."]
    if store.recipe.get("generator"):
        lines = [
            "The class is what the generator was asked for, not what a person saw"
            + ("; see above for how often a teacher agrees." if store.labels else "."),
            "The images have the biases and the faults of the generator, and of what it was trained on.",
            "It is made for training students, not for measuring them: evaluate on real images.",
        ]
    if store.labels:
        lines.append("Logits are a teacher's opinion, with its errors, in a codec that rounds (see above).")
    if store.image_codec.lossy:
        lines.append("Pixels have been compressed with loss; teachers saw them as a reader gets them.")
    if missing := store.num_images - _made(store):
        lines.append(f"The store is unfinished: {missing:,} images are missing.")
    for name, label_set in store.labels.items():
        if blocks := label_set.missing_blocks():
            lines.append(
                f"Label set {name} is unfinished: {len(blocks):,} of {store.num_blocks:,} blocks have no labels."
            )
    return ["## Limits", "\n".join(f"- {line}" for line in lines)]


def _rights(store: Store, licence: str) -> list[str]:
    what = "the generator's weights" if store.recipe.get("generator") else "the images"
    if licence == UNKNOWN:
        return ["## Licence", f"The licence of {what} is not known to dmkd. Find out before passing this on."]
    return [
        "## Licence",
        f"The licence named for {what} is **{licence}**. What it means for images made with them, and for students trained on "
        "those, dmkd can't say; teachers' weights have licences of their own.",
    ]


# Below: words


def _name(store: Store) -> str:
    return PurePosixPath(store.path.replace("\\", "/").rstrip("/")).name or "store"


def _made(store: Store) -> int:
    missing = store.missing_blocks()
    return store.num_images - sum(len(store.block_ids(block)) for block in missing)


def _classes(store: Store) -> str:
    chosen = store.recipe.get("classes")
    return f"{store.num_classes:,}" if chosen is None else f"{len(chosen):,} of {store.recipe['num_classes']:,}"


def _policy(attributes: Mapping[str, Any]) -> str:
    known = ("policy", "seed", "size", "interpolation", "crop_mode", "crop_pct")
    return ", ".join(f"{key} {_shown(attributes[key])}" for key in known if attributes.get(key) is not None)


def _shown(value: Any) -> str:
    """A value of JSON, short, fit for a cell of a table."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, list) and len(value) > 8 and all(isinstance(item, int) for item in value):
        text = f"{len(value):,} values: {id_ranges(value, ', ')}"
    else:
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 400 else f"{text[:380]}…"
