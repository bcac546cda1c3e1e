"""The prompt of each image for a text-to-image generator: the name of its class in a template."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dmkd.recipes.class_names import first_synonym
from dmkd.recipes.randomness import key64, uniforms
from dmkd.stores.errors import UsageError

DEFAULT_TEMPLATE = "a photo of a {}"


@dataclass(frozen=True)
class Wording:
    """How the prompts of a store are worded."""

    class_names: tuple[str, ...]  # one a class, all its synonyms, comma-separated: the first one is written
    templates: tuple[str, ...]  # {} stands for the class name; a template given twice is drawn twice as often
    negative_prompt: str | None
    seed: int  # the recipe's

    def prompts(self, class_ids: Sequence[int] | np.ndarray, seeds: Sequence[int] | np.ndarray) -> list[str]:
        """The prompts of n images, from their class ids (n,) and noise seeds (n,).

        A noise seed is an image id under another name (``image_seeds`` is a bijection), so each image draws its template
        independently, and the same one on every machine.
        """
        share = uniforms(key64(self.seed, "prompt template"), np.asarray(seeds))
        numbers = (share * len(self.templates)).astype(int)
        return [
            self.templates[number].replace("{}", first_synonym(self.class_names[class_id]))
            for number, class_id in zip(numbers.tolist(), np.asarray(class_ids).tolist(), strict=True)
        ]


def parse_templates(prompts: Sequence[str], option: str = "--prompt") -> tuple[str, ...]:
    """The values of an ``option`` as given, templates or ``@FILE`` with one a line, to templates. Raises ``UsageError``."""
    templates: list[str] = []
    for prompt in prompts:
        templates += _read_templates(prompt[1:], option) if prompt.startswith("@") else [prompt]
    for template in templates:
        if "{}" not in template:
            raise UsageError(
                f"{option} {template!r} lacks {{}}, which stands for the class name: {DEFAULT_TEMPLATE!r}."
            )
    return tuple(templates)


def _read_templates(path: str, option: str) -> list[str]:
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{option}: {path} can't be read: {reason}.") from error
    templates = [line.strip() for line in lines if line.strip()]
    if not templates:
        raise UsageError(f"{option}: {path} holds no template; it needs one a line, such as {DEFAULT_TEMPLATE!r}.")
    return templates
