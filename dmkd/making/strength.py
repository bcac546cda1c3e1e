"""How hard images can be pushed before the teacher no longer sees their class: tried on some of them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from dmkd.classifiers.teachers import teacher_of_labels
from dmkd.making.blocks import BlockWorker, WorkOrder
from dmkd.making.critics import student_from
from dmkd.making.images import make_images
from dmkd.making.labelling import labelling_threads
from dmkd.recipes.rounds import Round
from dmkd.runtime.accelerators import upload
from dmkd.runtime.own_code import look_in
from dmkd.steering.critic import Critic
from dmkd.steering.scores import parse_score
from dmkd.stores import open_store

TRIED = 64  # images, the first of the round
FRACTIONS = (1.0, 0.5, 0.25, 0.125)  # of the strength asked for


@dataclass(frozen=True)
class StrengthTrial:
    """What is tried. Small and picklable but for the student's weights."""

    store_path: str
    round: Mapping[str, Any]  # as ``Round.to_json`` gives it
    student: bytes
    generator: str  # ``GeneratorSource.weights``
    agreement: float
    folder: str = field(default_factory=os.getcwd)  # where the user's own functions are looked for, as here


def largest_strength(trial: StrengthTrial, device: str) -> float:
    """The largest of some fractions of the round's strength at which the teacher sees the class of the wanted share of its first
    images; 0 if none is small enough."""
    look_in(trial.folder)
    store, asked = open_store(trial.store_path), Round.from_json(trial.round)
    assert asked.student is not None and asked.labels is not None
    threads = labelling_threads(store, device)
    worker = BlockWorker(WorkOrder(trial.store_path, (), device, threads, trial.generator))
    teacher = teacher_of_labels(store, store.labels[asked.labels], device)
    student = student_from(asked.student["config"], trial.student, device)
    critic = Critic(teacher, student, parse_score(asked.score))
    ids = np.arange(asked.start, asked.start + min(TRIED, asked.images))
    assert worker.generator is not None
    for fraction in FRACTIONS:
        one = replace(asked, strength=asked.strength * fraction)
        images, class_ids, _ = make_images(worker.generator, worker.recipe, ids, one, critic)
        wanted = upload(torch.from_numpy(class_ids.astype(np.int64)), images.device)
        if float(critic.look(images, wanted)[1].float().mean()) >= trial.agreement:
            return one.strength
    return 0.0
