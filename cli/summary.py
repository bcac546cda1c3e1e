"""What a store holds, as facts for a script and as a screen for a person."""

from typing import Any

from dmkd.quality import quality_averages
from dmkd.stores import LabelSet, Store

from .display import byte_size, percent, print_facts, print_table


def store_facts(store: Store) -> dict[str, Any]:
    """JSON-able: ``images``, ``complete``, ``missing_blocks``, ``label_sets`` and what made the store."""
    missing = store.missing_blocks()
    return {
        "path": store.path,
        "images": store.num_images,
        "image_shape": list(store.image_shape),
        "classes": store.num_classes,
        "blocks": store.num_blocks,
        "block_size": store.block_size,
        "missing_blocks": missing,
        "complete": not missing and not any(label_set.missing_blocks() for label_set in store.labels.values()),
        "identity": store.identity,
        "recipe": store.recipe,
        "view_sets": {name: view_set.attributes for name, view_set in store.views.items()},
        "label_sets": {name: _label_set_facts(store, label_set) for name, label_set in store.labels.items()},
        "created": store.attributes["created"],
        "updated": store.attributes["updated"],
        "versions": store.attributes["versions"],
    }


def _label_set_facts(store: Store, label_set: LabelSet) -> dict[str, Any]:
    missing = label_set.missing_blocks()
    return {
        "teacher": label_set.teacher,
        "view_set": label_set.view_set,
        "views": label_set.num_views,
        "codec": label_set.codec.to_json(),
        "missing_blocks": missing,
        "identity": label_set.identity,
        **quality_averages(store, label_set, missing),
    }


def print_store(store: Store) -> None:
    """One screen: what it is, what made it, whether it is complete, its labels."""
    facts = store_facts(store)
    recipe, missing = facts["recipe"], facts["missing_blocks"]
    height, width, _ = facts["image_shape"]
    made = sum(len(store.block_ids(block)) for block in set(range(store.num_blocks)) - set(missing))
    state = "complete" if not missing else f"{len(missing)} of {facts['blocks']} blocks missing"
    lines = [
        ("images", f"{made:,} of {facts['images']:,}, {height}x{width}, {state}"),
        ("classes", classes_line(facts["classes"], recipe.get("classes"))),
        (
            "blocks",
            f"{facts['blocks']:,} of {facts['block_size']:,}, {byte_size(store.block_size * height * width * 3)}",
        ),
        ("made by", recipe_line(recipe)),
        *([("prompts", prompts_line(recipe))] if recipe.get("prompts") else []),
        *([("seed", f"{recipe['seed']}, {numerics_line(recipe)}")] if "sub_batch" in recipe else []),
        ("identity", f"{facts['identity'][:16]}…"),
    ]
    print_facts(store.path, lines)
    if facts["label_sets"]:
        print_table(
            "Labels",
            ["label set", "teacher", "views", "codec", "done", "agrees", "p(class)", "entropy"],
            [label_row(name, facts["blocks"], label_set) for name, label_set in facts["label_sets"].items()],
        )


def classes_line(count: int, chosen: list[int] | None) -> str:
    return f"{count:,}" if chosen is None else f"{len(chosen):,} of {count:,}"


def numerics_line(recipe: dict[str, Any]) -> str:
    """What decides how pixels are rounded."""
    compiled = ", compiled" if recipe.get("compile") else ""
    return f"sub-batches of {recipe['sub_batch']}, {recipe['dtype']}{compiled}"


def recipe_line(recipe: dict[str, Any]) -> str:
    """What made the images; a store that no sampler made says only where they came from."""
    if recipe.get("source") == "import":
        return f"import ({recipe['layout']}, {recipe['resize']})"
    if "sampler" not in recipe:
        return str(recipe.get("generator"))
    scale = recipe["guidance"]
    guidance = f"guidance {f'{scale[0]:g} to {scale[1]:g}' if isinstance(scale, list) else f'{scale:g}'}"
    if recipe["guided_channels"] is not None:
        guidance += f" on {recipe['guided_channels']} channels"
    if recipe.get("guidance_interval"):
        guidance += ", noise {:g} to {:g}".format(*recipe["guidance_interval"])
    return f"{recipe['generator']}, {recipe['sampler']} {recipe['steps']} steps, {guidance}"


def prompts_line(recipe: dict[str, Any]) -> str:
    """The first template, how many more there are, and the negative prompt."""
    first, *more = recipe["prompts"]
    line = f"{first!r}" + (f" and {len(more)} more" if more else "")
    return line + (f", negative {recipe['negative_prompt']!r}" if recipe["negative_prompt"] else "")


def label_row(name: str, blocks: int, label_set: dict[str, Any]) -> list[str]:
    done = 1 - len(label_set["missing_blocks"]) / blocks
    return [
        name,
        label_set["teacher"]["architecture"],
        f"{label_set['views']} {label_set['view_set']}",
        label_set["codec"]["name"],
        f"{done:.0%}",
        percent(label_set.get("agreement")),
        f"{label_set['p_class']:.3f}" if "p_class" in label_set else "",
        f"{label_set['entropy']:.3f}" if "entropy" in label_set else "",
    ]
