"""timm models on the Hugging Face hub."""

from typing import TYPE_CHECKING

from dmkd.classifiers.sources.kind import ClassifierSource, Kind

if TYPE_CHECKING:
    from dmkd.classifiers.classifier import Classifier
    from dmkd.recipes.zero_shot import ClassPrompts


class TimmHub(Kind):
    example = "hf-hub:timm/resnet18.a1_in1k"
    help = "a timm model on the Hugging Face hub"
    prefix = "hf-hub:"

    def parse(self, text: str) -> ClassifierSource | None:
        if not text.startswith(self.prefix):
            return None
        return ClassifierSource(text, text.rsplit("/", 1)[-1], self, text)

    def load(self, meant: ClassifierSource, *, weights: bool, prompts: "ClassPrompts | None") -> "Classifier":
        from dmkd.classifiers.sources.timm_classifier import timm_classifier
        from dmkd.classifiers.sources.timm_weights import pretrained_model

        return timm_classifier(meant, pretrained_model(meant.text, meant.text, weights))
