"""A student's model card: how it was made, from the summary of its training run."""

from typing import Any

from dmkd.cards.licences import GENERATOR_LICENCES, TRAINED_ON
from dmkd.cards.markdown import markdown_table
from dmkd.cifar_models import CIFAR_MODELS


def model_card(summary: dict[str, Any], which: str) -> str:
    """Markdown with the Hugging Face hub's front matter. ``which``: "student" (last epoch) or "best"."""
    training = summary["training"]
    name = f"{training['student']} by distillation"
    parts = [
        FRONT_MATTER,
        f"# {name}\n",
        _opening(summary),
        "## Use\n\n" + _use(training["student"]),
        "## How good it is\n\n" + _accuracy(summary, which),
        "## How it was made\n\n" + markdown_table(("", ""), _facts(summary)) + "\n",
        "## Licence\n\n" + "\n".join(dict.fromkeys(_licence(store["recipe"]) for store in _stores(summary))),
    ]
    return "\n".join(parts)


FRONT_MATTER = """---
library_name: timm
pipeline_tag: image-classification
tags:
- timm
- image-classification
- knowledge-distillation
- synthetic-data
- dmkd
---
"""


def _opening(summary: dict[str, Any]) -> str:
    learnt = " and ".join(_learnt(store) for store in _stores(summary))
    return f"An image classifier ({summary['parameters']:,} parameters) trained with dmkd on {learnt}.\n"


def _stores(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Each store that was learnt from, with its images, recipe and teachers."""
    alone = {**summary["store"], "teachers": summary["teachers"]}
    return list(summary.get("stores", {"1": alone}).values())


def _learnt(store: dict[str, Any]) -> str:
    recipe = store["recipe"]
    maker = recipe.get("generator") or recipe.get("source") or "existing images"
    teachers = ", ".join(t["teacher"].get("architecture", t["teacher"]["name"]) for t in store["teachers"].values())
    taught = f"{teachers}'s logits for them" if teachers else "the classes asked for, without a teacher"
    return f"{store['images']:,} images of {maker} and {taught}"


def _use(architecture: str) -> str:
    first = "import dmkd.cifar_models  # registers this architecture with timm: pip install dmkd\nimport timm\n"
    imports = first if architecture in CIFAR_MODELS else "import timm\n"
    return (
        f"```python\n{imports}\n"
        'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # or hf-hub:USER/NAME\n'
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
        "```\n"
    )


def _accuracy(summary: dict[str, Any], which: str) -> str:
    measured = summary["best"] if which == "best" else summary
    agreement = (
        f"On its own training views it agrees with its labels in {summary['agreement']:.2%} of cases (last epoch)."
    )
    if summary["evaluated_on"] is None or measured["top1"] is None:
        return f"It was not evaluated on images from another source. {agreement}\n"
    text = f"Top-1 {measured['top1']:.2%}, top-5 {measured['top5']:.2%} on `{summary['evaluated_on']}`. "
    if which == "best":
        text += (
            f"This is the student of epoch {measured['epoch']}, **chosen by these very "
            f"images**, so its accuracy on them is optimistic; the last epoch's student reached {summary['top1']:.2%}. "
        )
    else:
        text += "It is the student of the last epoch: these images were not used to choose it. "
    return f"{text}{agreement}\n"


def _facts(summary: dict[str, Any]) -> list[tuple[str, Any]]:
    training, execution, stores = summary["training"], summary["execution"], _stores(summary)
    of_stores = [
        row
        for number, store in enumerate(stores, 1)
        for row in _facts_of(store, "store" if len(stores) == 1 else f"store {number}")
    ]
    return [
        *of_stores,
        *((f"views: {key}", value) for key, value in summary["views"].items()),
        *((f"training: {key}", value) for key, value in training.items() if value is not None),
        *((f"run: {key}", value) for key, value in execution.items() if value is not None),
        ("hardware", summary["hardware"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in summary["versions"].items())),
    ]


def _facts_of(store: dict[str, Any], which: str) -> list[tuple[str, Any]]:
    share = f", {store['share']:.1%} of each batch" if "share" in store else ""
    return [
        (f"{which} identity", store["identity"]),
        ("images", f"{store['images']:,}{share}"),
        *((f"{which}: {key}", value) for key, value in store["recipe"].items() if value is not None),
        *(
            (
                f"teacher `{name}`",
                f"{t['teacher'].get('architecture', name)}, sha256 {t['teacher'].get('sha256', '?')}, codec {t['codec']}",
            )
            for name, t in store["teachers"].items()
        ),
    ]


def _licence(recipe: dict[str, Any]) -> str:
    generator = recipe.get("generator")
    if generator is None:
        return "The images were not made by dmkd: check their licence, and the teacher's.\n"
    known = GENERATOR_LICENCES.get(str(generator))
    terms = f"is under {known}" if known else "has a licence that dmkd does not know"
    if material := TRAINED_ON.get(str(generator)):
        terms += f"; {material}"
    return (
        f"The generator `{generator}` {terms}. What is trained on its images may be bound by that, and by the teacher's "
        "licence.\n"
    )
