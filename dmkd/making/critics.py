"""The critic of a round: its student, as the store has kept it, beside the teacher of one of the store's label sets."""

import json
import tempfile
from pathlib import Path
from typing import Any

from dmkd.classifiers.classifier import Classifier
from dmkd.classifiers.load import load_classifier
from dmkd.classifiers.teachers import teacher_of_labels
from dmkd.recipes.rounds import Round
from dmkd.steering.critic import Critic
from dmkd.steering.scores import parse_score
from dmkd.stores import MismatchError, Store


def critic_of(store: Store, number: int, device: str, teacher: Classifier | None = None) -> Critic:
    """Of round ``number``, on a device; ``teacher``: its teacher, if that is loaded already. Raises ``MismatchError`` if student
    or teacher are not those that the round was begun with."""
    stored = store.rounds[number - 1]
    one = Round.from_json(stored.description)
    assert one.student is not None and one.labels is not None
    if teacher is None:
        teacher = teacher_of_labels(store, store.labels[one.labels], device)
    if teacher.sha256 != one.teacher_sha256:
        raise MismatchError(
            f"The weights of teacher {teacher.source} have changed since round {number} of {store.path} was begun: bring the old "
            "weights back."
        )
    student = student_from(one.student["config"], stored.student_weights(), device)
    if store.recipe.get("compile"):
        student.model.compile()
    return Critic(teacher, student, parse_score(one.score))


def student_from(config: dict[str, Any], weights: bytes, device: str) -> Classifier:
    """A student from the two files of its timm folder."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        (Path(folder) / "model.safetensors").write_bytes(weights)
        return load_classifier(folder, device=device)
