"""What a store holds, as a screen for a person: a short one after a command's work, a full one for ``dmkd inspect``."""

import textwrap
from collections.abc import Sequence
from typing import Any

import click

from dmkd.recipes.generator_args import written_arguments
from dmkd.runtime.space import byte_size
from dmkd.stores import Store, layout
from dmkd.stores.codecs import codec_from_json
from dmkd.stores.showing.facts import quality_view_in_words, store_facts, teacher_in_words
from dmkd.stores.showing.round_facts import followed_in_words, made_in_words

from .display import duration, percent, print_facts, print_sentence, print_table
from .traffic import traffic_lines

__all__ = ["print_everything", "print_store", "store_facts"]

BARS = "▁▂▃▄▅▆▇█"
NO_BREAK = "\u00a0"
RUNS_SHOWN = 5
ROUNDS_SHOWN = 12
VERSIONS_SHOWN = ("dmkd", "torch", "diffusers", "transformers", "timm")  # the others are in the JSON
LABEL_COLUMNS = ("label set", "teacher", "views", "codec", "a view", "done", "agrees", "p(class)", "entropy")
SPARE_LABEL_COLUMNS = ("a view", "entropy", "p(class)", "codec", "agrees", "views")
ROUND_COLUMNS = ("round", "images", "followed", "labels", "score", "mean", "agrees", "made as")
SPARE_ROUND_COLUMNS = ("labels", "mean")


def print_store(store: Store) -> None:
    """What it is, what made it, whether it is complete, its labels."""
    facts = store_facts(store)
    print_facts(store.path, _what_it_is(facts))
    if facts["label_sets"]:
        rows = _label_rows(facts)
        print_table("Labels", LABEL_COLUMNS, rows, compact=True, spare=SPARE_LABEL_COLUMNS)
    _print_damaged(facts)


def print_everything(facts: dict[str, Any]) -> None:
    """One screen of what :func:`dmkd.stores.showing.facts.store_facts` found."""
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in VERSIONS_SHOWN if name in facts["versions"])
    lines = [
        *_what_it_is(facts),
        *(traffic_lines(facts["training"]) if "training" in facts else ()),
        ("created", f"{_time(facts['created'])}, changed {_time(facts['updated'])} UTC"),
        *([("with", versions)] if versions else []),
        *((f"{'sizes' if not i else ''}", line) for i, line in enumerate(size_lines(facts))),
    ]
    print_facts(facts["path"], lines)
    if facts["view_sets"]:
        columns = ["view set", "policy", "views", "size", "seed", "done"]
        _print_section("Views", columns, _view_rows(facts), ("seed",))
    if facts["label_sets"]:
        _print_section("Labels", LABEL_COLUMNS, _label_rows(facts), SPARE_LABEL_COLUMNS)
    if facts["rounds"]:
        title, rounds = _last("Rounds", facts["rounds"], ROUNDS_SHOWN)
        _print_section(title, ROUND_COLUMNS, round_rows(rounds), SPARE_ROUND_COLUMNS)
    if facts["columns"]:
        print_columns(facts)
    if facts["selections"]:
        rows = [[f"@{name}", expression] for name, expression in facts["selections"].items()]
        _print_section("Selections", ["name", "images for which"], rows, ())
    if facts["tags"]:
        print_tags(facts)
    for name, label_set in facts["label_sets"].items():
        if label_set.get("statistics", {}).get("images"):
            click.echo()
            lines = [
                ("seen at", quality_view_in_words(label_set["quality_view"])),
                *opinion_lines(label_set["statistics"]),
            ]
            print_facts(opinion_title(name, label_set["statistics"]), lines)
    if facts["runs"]:
        title, shown = _last("Runs", facts["runs"], RUNS_SHOWN)
        columns = ["started (UTC)", "command", "outcome", "blocks", "time", "images/s", "workers"]
        _print_section(title, columns, [run_row(run, facts["block_size"]) for run in shown], ("workers", "blocks"))
    _print_damaged(facts)


def _last(title: str, every: Sequence[dict[str, Any]], most: int) -> tuple[str, Sequence[dict[str, Any]]]:
    """The last ones of a list, and a title that says if there are more."""
    return title + (f", the last {most} of {len(every)}" if len(every) > most else ""), every[-most:]


def _print_section(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], spare: Sequence[str]) -> None:
    click.echo()
    print_table(title, columns, rows, compact=True, spare=spare)


def _what_it_is(facts: dict[str, Any]) -> list[tuple[str, str]]:
    recipe, missing = facts["recipe"], facts["missing_blocks"]
    height, width, _ = facts["image_shape"]
    state = "complete" if not missing else f"{len(missing):,} of {facts['blocks']:,} blocks missing"
    codec = "" if facts["image_codec"] == "raw" else f", {facts['image_codec']}"
    return [
        ("images", f"{facts['images_made']:,} of {facts['images']:,}, {height}x{width}{codec}, {state}"),
        ("classes", classes_line(facts["classes"], recipe)),
        ("blocks", f"{facts['blocks']:,} of {facts['block_size']:,}"),
        ("on disk", byte_size(facts["bytes"])),
        ("made by", recipe_line(recipe)),
        *([("prompts", prompts_line(recipe))] if recipe.get("prompts") else []),
        *([("seed", f"{recipe['seed']}, {numerics_line(recipe)}")] if "sub_batch" in recipe else []),
        ("identity", identity_line(facts)),
    ]


def identity_line(facts: dict[str, Any]) -> str:
    """That of the recipe, and the last round's, which all rounds decide."""
    rounds = len(facts["rounds"]) - 1
    after = f", after {rounds} round{'s' if rounds > 1 else ''} {facts['lineage'][:16]}…" if rounds > 0 else ""
    return f"{facts['identity'][:16]}…{after}"


def size_lines(facts: dict[str, Any]) -> list[str]:
    """Bytes on disk of each array, those of a label set together, as many on a line as fit."""
    sizes: dict[str, int] = {}
    for node, array in facts["arrays"].items():
        part = layout.ROUNDS if node.startswith(f"{layout.ROUNDS}/") else "/".join(node.split("/")[:2])
        sizes[part] = sizes.get(part, 0) + array["bytes"]
    words = [f"{node} {byte_size(size)}" for node, size in sizes.items()]
    return textwrap.wrap(", ".join(word.replace(" ", NO_BREAK) for word in words), 86, break_on_hyphens=False)


def _view_rows(facts: dict[str, Any]) -> list[list[str]]:
    return [
        [
            name,
            policy_line(view_set["policy"]),
            view_set["num_views"],
            f"{view_set['size']} {view_set['interpolation']}",
            view_set.get("seed", ""),
            _done(view_set, facts),
        ]
        for name, view_set in facts["view_sets"].items()
    ]


def policy_line(policy: dict[str, Any] | str) -> str:
    """``rrc:8+cutmix``, as ``--views`` takes it."""
    from dmkd.views.policy import ViewPolicy

    return str(ViewPolicy.from_json(policy)) if isinstance(policy, dict) else policy


def _print_damaged(facts: dict[str, Any]) -> None:
    if damaged := facts["damaged"]:
        more = f" And {len(damaged) - 1:,} more like it." if len(damaged) > 1 else ""
        click.echo()
        print_sentence(f"Damaged: {damaged[0]}{more}", "red")


def opinion_title(name: str, statistics: dict[str, Any]) -> str:
    read, labelled = statistics["blocks_read"], statistics["blocks_labelled"]
    images = f"{statistics['images']:,} images"
    return f"What {name} sees in {images}" + (f", from {read:,} of {labelled:,} blocks" if read < labelled else "")


def opinion_lines(statistics: dict[str, Any]) -> list[tuple[str, str]]:
    """The distributions of p(class) and of entropy, and the classes at either end."""
    lines = []
    for name, title in (("p_class", "p(class)"), ("entropy", "entropy")):
        low, high = (statistics[name]["histogram"]["edges"][i] for i in (0, -1))
        at = {key: f"{value:.3f}" for key, value in statistics[name]["quantiles"].items()}
        drawn = f"{low:g} {bars(statistics[name]['histogram']['counts'])} {high:<4.3g}"
        lines.append((title, f"{drawn}  median {at['0.5']}, 90 % between {at['0.05']} and {at['0.95']}"))
    ends = statistics["classes"]
    percentage, nats = "{:.0%}".format, "{:.2f} nats".format
    return [
        *lines,
        ("agrees", f"most on {class_list(ends['agreement']['best'], percentage)}"),
        ("", f"least on {class_list(ends['agreement']['worst'], percentage)}"),
        ("certain", f"most on {class_list(ends['entropy']['lowest'], nats)}"),
        ("", f"least on {class_list(ends['entropy']['highest'], nats)}"),
    ]


def class_list(classes: Sequence[dict[str, Any]], written: Any) -> str:
    """``207 golden retriever (98 %), ...``; a class that is named by its number is written once."""
    return ", ".join(
        f"{one['class_id'] if one['name'] == str(one['class_id']) else _named(one)} ({written(one['value'])})"
        for one in classes
    )


def _named(one: dict[str, Any]) -> str:
    return f"{one['class_id']} {one['name'].split(',')[0]}"


def bars(counts: Sequence[int]) -> str:
    """A histogram as one line of text: the lowest bar is nothing, any other something."""
    most, levels = max(counts), len(BARS) - 1
    return "".join(BARS[-(-count * levels // most)] if most else BARS[0] for count in counts)


def run_row(run: dict[str, Any], block_size: int) -> list[str]:
    seconds = run["seconds"]
    rate = f"{run['blocks'] * block_size / seconds:,.1f}" if seconds else ""
    hardware = ", ".join(run["hardware"])
    return [
        _time(run["started"]),
        run["command"] or "",
        (run["outcome"] or "").split(":")[0],
        f"{run['blocks']:,}",
        duration(seconds) if seconds else "",
        rate,
        f"{run['workers']} x {hardware}" if hardware else str(run["workers"]),
    ]


def _time(text: str | None) -> str:
    """``2026-11-22 12:36`` of an ISO time."""
    return (text or "")[:16].replace("T", " ")


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "1"


def _done(part: dict[str, Any], facts: dict[str, Any]) -> str:
    done = 1 - len(part["missing_blocks"]) / facts["blocks"]
    return "100%" if done == 1 else f"{min(done, 0.999):.1%}" if done > 0.99 else f"{done:.0%}"


def classes_line(count: int, recipe: dict[str, Any]) -> str:
    chosen = recipe.get("classes")
    return f"{count:,}" if chosen is None else f"{len(chosen):,} of {recipe['num_classes']:,}"


def numerics_line(recipe: dict[str, Any]) -> str:
    """What decides how pixels are rounded."""
    compiled = ", compiled" if recipe.get("compile") else ""
    dtype = f", {recipe['dtype']}" if recipe["dtype"] else ""
    return f"sub-batches of {recipe['sub_batch']}{dtype}{compiled}"


def recipe_line(recipe: dict[str, Any]) -> str:
    """What made the images; a store that no sampler made says only where they came from."""
    if recipe.get("source") == "import":
        return f"import ({recipe['layout']}, {recipe['resize']})"
    if "sampler" not in recipe:
        return str(recipe.get("generator"))
    parts = [recipe["generator"], *written_arguments(recipe.get("generator_args") or {})]
    if recipe["steps"] is not None:
        parts.append(f"{recipe['sampler'] or ''} {recipe['steps']} steps".strip())
    if (scale := recipe["guidance"]) is not None:
        guidance = f"guidance {f'{scale[0]:g} to {scale[1]:g}' if isinstance(scale, list) else f'{scale:g}'}"
        if recipe["guided_channels"] is not None:
            guidance += f" on {recipe['guided_channels']} channels"
        parts.append(guidance)
    if recipe.get("guidance_interval"):
        parts.append("noise {:g} to {:g}".format(*recipe["guidance_interval"]))
    return ", ".join(parts)


def prompts_line(recipe: dict[str, Any]) -> str:
    """The first template, how many more there are, and the negative prompt."""
    first, *more = recipe["prompts"]
    line = f"{first!r}" + (f" and {len(more)} more" if more else "")
    return line + (f", negative {recipe['negative_prompt']!r}" if recipe["negative_prompt"] else "")


def round_rows(rounds: Sequence[dict[str, Any]]) -> list[list[str]]:
    def about(one: dict[str, Any], text: str) -> str:
        return f"{'≈ ' if text and one['blocks_read'] < one['blocks_made'] else ''}{text}"

    return [
        [
            str(one["number"]),
            f"{one['images']:,}",
            followed_in_words(one),
            one["labels"] or "",
            one["score"] or "",
            about(one, "" if one["mean_score"] is None else f"{one['mean_score']:.4g}"),
            about(one, percent(one["agreement"])),
            made_in_words(one),
        ]
        for one in rounds
    ]


def print_columns(facts: dict[str, Any]) -> None:
    columns = ["column", "smallest", "mean", "largest", "done", "what it is"]
    _print_section("Columns", columns, column_rows(facts), ("mean",))


def column_rows(facts: dict[str, Any]) -> list[list[str]]:
    def shown(column: dict[str, Any], key: str) -> str:
        return f"{'≈ ' if column['sampled'] else ''}{column[key]:.4g}" if key in column else ""

    return [
        [
            name,
            *(shown(column, key) for key in ("smallest", "mean", "largest")),
            _done(column, facts),
            column["description"],
        ]
        for name, column in facts["columns"].items()
    ]


def print_tags(facts: dict[str, Any]) -> None:
    rows = [
        [name, f"{tag['sha256'][:16]}…", f"{tag['images']:,}", ", ".join(tag["label_sets"]), _time(tag["created"])]
        for name, tag in facts["tags"].items()
    ]
    _print_section("Tags", ["tag", "sha256", "images", "label sets", "made (UTC)"], rows, ("label sets",))


def _label_rows(facts: dict[str, Any]) -> list[list[str]]:
    return [label_row(name, label_set, facts) for name, label_set in facts["label_sets"].items()]


def label_row(name: str, label_set: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    each = label_set.get("bytes_a_view")
    return [
        name,
        teacher_in_words(label_set["teacher"]),
        f"{label_set['views']} {label_set['view_set']}",
        str(codec_from_json(label_set["codec"])),
        byte_size(each) if each else "",
        _done(label_set, facts),
        percent(label_set.get("agreement")),
        f"{label_set['p_class']:.3f}" if "p_class" in label_set else "",
        f"{label_set['entropy']:.3f}" if "entropy" in label_set else "",
    ]
