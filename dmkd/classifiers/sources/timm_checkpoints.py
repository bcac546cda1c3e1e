"""An architecture of timm's, or of :mod:`dmkd.cifar_models`, and a file with its weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmkd.classifiers.sources.kind import ClassifierSource, Kind
from dmkd.classifiers.sources.weight_files import name_of_weights, read_state_dict, weight_file
from dmkd.runtime.failures import named_line
from dmkd.runtime.spelling import nearest_names
from dmkd.stores.errors import DmkdError, UsageError

if TYPE_CHECKING:
    from torch.nn import Module

    from dmkd.classifiers.classifier import Classifier
    from dmkd.recipes.zero_shot import ClassPrompts


class TimmCheckpoint(Kind):
    example = "resnet18=./weights.safetensors"
    help = "an architecture of timm's or of the CIFAR papers, and its weights: .safetensors, or .pth read with weights_only"

    def parse(self, text: str) -> ClassifierSource | None:
        architecture, equals, file = text.partition("=")
        if not equals:
            return None
        path = weight_file(file)
        return ClassifierSource(text, name_of_weights(architecture, path), self, architecture, path)

    def load(self, meant: ClassifierSource, *, weights: bool, prompts: "ClassPrompts | None") -> "Classifier":
        from dmkd.classifiers.sources.timm_classifier import timm_classifier

        assert meant.architecture is not None and meant.path is not None
        return timm_classifier(meant, _from_file(meant.architecture, meant.path, weights))


def _from_file(architecture: str, file: Path, weights: bool) -> "Module":
    import timm

    from dmkd.cifar_models import translate_weights

    if not timm.is_model(architecture.split(".")[0]):
        raise UsageError(f"There is no architecture {architecture!r}{nearest_names(architecture, timm.list_models())}")
    try:
        state = translate_weights(architecture, read_state_dict(file, weights))
        classifier = timm.get_pretrained_cfg_value(architecture, "classifier") or "fc"
        classes = state[f"{classifier if isinstance(classifier, str) else classifier[0]}.weight"].shape[0]
        model: Any = timm.create_model(architecture, num_classes=classes)
        if "." not in architecture:  # timm's default tag names weights that these are not
            model.pretrained_cfg = {**model.pretrained_cfg, "tag": ""}
        if weights:
            model.load_state_dict(state)
    except DmkdError:
        raise
    except Exception as error:
        raise DmkdError(f"{file} could not be loaded as {architecture}: {named_line(error)}.") from error
    return model
