"""What a zero-shot teacher is told of its classes: their names in templates, such as "a photo of a cat."."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dmkd.recipes.class_list import ClassList
from dmkd.recipes.class_names import IMAGENET, first_synonym, names_sha256
from dmkd.recipes.imagenet_templates import IMAGENET_TEMPLATES
from dmkd.recipes.prompts import parse_templates
from dmkd.stores.errors import UsageError

TEACHER_PROMPT = "--teacher-prompt"
DEFAULT_TEMPLATE = (
    "a photo of a {}."  # CLIP's authors end it with a full stop, DM-KD's prompts of Stable Diffusion do not
)
NUMBERED = re.compile(r"(class )?\d+")  # classes of which nothing but their number is known


@dataclass(frozen=True)
class ClassPrompts:
    """The classes of a zero-shot teacher, and the sentences that its text tower reads.

    As in the prompts of generators a class is called by its first synonym; the underscores that folders have are spaces.
    """

    classes: ClassList
    templates: tuple[str, ...]  # {} stands for the class name; the mean over all is the class

    def of_class(self, class_id: int) -> list[str]:
        """The sentences of one class, one a template."""
        name = first_synonym(self.classes.names[class_id]).replace("_", " ")
        return [template.replace("{}", name) for template in self.templates]

    def to_json(self) -> dict[str, Any]:
        """What a label set records. The names themselves are the store's."""
        return {"templates": list(self.templates), "class_names_sha256": names_sha256(self.classes.names)}


def parse_teacher_prompts(prompts: Sequence[str]) -> tuple[str, ...]:
    """``--teacher-prompt``: templates, ``@FILE`` with one a line, or ``imagenet`` -> templates. Raises ``UsageError``."""
    templates: list[str] = []
    for prompt in prompts:
        templates += IMAGENET_TEMPLATES if prompt == IMAGENET else parse_templates([prompt], TEACHER_PROMPT)
    return tuple(templates)


def class_prompts(classes: ClassList, templates: Sequence[str] | None, whose: str) -> ClassPrompts:
    """The sentences for classes, in templates or in the default one. ``whose``: "s.zarr has", for the message.

    Raises ``UsageError`` for classes without a name, and for classes that only have numbers unless the templates, which were
    chosen for them then, say of what."""
    for number, name in enumerate(classes.names):
        if not first_synonym(name):
            raise UsageError(
                f"A zero-shot teacher knows classes by their names alone, and class {number} of those that {whose} has "
                f"none ({name!r})."
            )
    if templates is None and all(NUMBERED.fullmatch(name) for name in classes.names):
        raise UsageError(
            f"A zero-shot teacher knows classes by their names alone, and those that {whose} are called {classes.names[0]!r} "
            f'and so on: if they are numbers, say of what, as in {TEACHER_PROMPT} "a photo of the number {{}}."; else use '
            "another teacher."
        )
    return ClassPrompts(classes, (DEFAULT_TEMPLATE,) if templates is None else tuple(templates))
