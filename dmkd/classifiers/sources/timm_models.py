"""timm models with pretrained weights, by timm's names."""

from pathlib import Path
from typing import TYPE_CHECKING

from dmkd.classifiers.sources.kind import ClassifierSource, Kind
from dmkd.classifiers.sources.weight_files import CHECKPOINTS
from dmkd.stores.errors import UsageError

if TYPE_CHECKING:
    from dmkd.classifiers.classifier import Classifier
    from dmkd.recipes.zero_shot import ClassPrompts


class TimmModel(Kind):
    example = "resnet34.tv_in1k"
    help = "a timm model with pretrained weights; the resolved tag is recorded"

    def parse(self, text: str) -> ClassifierSource | None:
        if Path(text).expanduser().is_file():
            raise UsageError(f"Which architecture has {text}? Write it in front, as in resnet18={text}.")
        if "/" in text or text.endswith(CHECKPOINTS):
            raise UsageError(f"There is no model at {text}.")
        return ClassifierSource(text, text, self, text)

    def known_classes(self, meant: ClassifierSource) -> int | None:
        import timm

        from dmkd.classifiers.sources.timm_weights import check_pretrained

        check_pretrained(meant.text, meant.text)
        return timm.get_pretrained_cfg_value(meant.text, "num_classes")

    def load(self, meant: ClassifierSource, *, weights: bool, prompts: "ClassPrompts | None") -> "Classifier":
        from dmkd.classifiers.sources.timm_classifier import timm_classifier
        from dmkd.classifiers.sources.timm_weights import pretrained_model

        return timm_classifier(meant, pretrained_model(meant.text, meant.text, weights))
