"""Folders with ``config.json`` and ``model.safetensors``, as timm and dmkd save them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from dmkd.classifiers.sources.kind import ClassifierSource, Kind
from dmkd.runtime.failures import named_line
from dmkd.stores.errors import DmkdError, UsageError

if TYPE_CHECKING:
    from dmkd.classifiers.classifier import Classifier
    from dmkd.recipes.zero_shot import ClassPrompts


class TimmFolder(Kind):
    example = "./students/resnet18"
    help = "a timm model folder, or that of a training run, whose last student is meant"

    def parse(self, text: str) -> ClassifierSource | None:
        path = Path(text).expanduser()
        if not path.is_dir():
            return None
        run = path.resolve()  # what `dmkd train-student --out` wrote: the labels of its student are called after it
        if not (path / "config.json").exists() and (path / "student" / "config.json").exists():
            path = path / "student"
        elif run.name in ("student", "best"):
            run = run.parent
        return ClassifierSource(text, run.name, self, path=path)

    def load(self, meant: ClassifierSource, *, weights: bool, prompts: "ClassPrompts | None") -> "Classifier":
        import timm

        from dmkd.classifiers.sources.timm_classifier import timm_classifier

        assert meant.path is not None
        try:
            config = json.loads((meant.path / "config.json").read_text())
            config["architecture"]
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(
                f"{meant.path} is not a timm model folder: one holds weights, and a config.json with an architecture."
            ) from error
        try:
            model = timm.create_model(f"local-dir:{meant.path}", pretrained=weights)
        except Exception as error:
            raise DmkdError(f"The model in {meant.text} could not be loaded: {named_line(error)}.") from error
        return timm_classifier(meant, model, wnids=config.get("label_wnids"))
