"""Image classifiers of the package transformers: on the Hugging Face hub, or in folders as it saves them."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmkd.classifiers.sources.kind import ClassifierSource, Kind
from dmkd.generators.hub import check_source, resolve_folder
from dmkd.runtime.failures import named_line
from dmkd.stores.errors import DmkdError, UsageError

if TYPE_CHECKING:
    from dmkd.classifiers.classifier import Classifier
    from dmkd.recipes.zero_shot import ClassPrompts

PREFIX = "hf:"
CONFIGURATION = "*.json"
WEIGHTS = "model.safetensors|model-*.safetensors"


class TransformersModel(Kind):
    example = "hf:microsoft/resnet-50"
    help = (
        "an image classifier of transformers with safetensors, on the Hugging Face hub (with @revision) or in a folder"
    )
    prefix = PREFIX
    library = "transformers"

    def parse(self, text: str) -> ClassifierSource | None:
        if not text.startswith(PREFIX):
            return None
        model = text.removeprefix(PREFIX)
        check_source(model)
        path = Path(model).expanduser()
        name = path.resolve().name if path.is_dir() else model.rpartition("/")[2].partition("@")[0]
        return ClassifierSource(text, name, self, model)

    def load(self, meant: ClassifierSource, *, weights: bool, prompts: "ClassPrompts | None") -> "Classifier":
        if importlib.util.find_spec("transformers") is None:
            raise UsageError(
                f"{meant.text} is a model of transformers, which is not installed: pip install 'dmkd[t2i]'."
            )
        import torch
        from transformers import AutoConfig, AutoImageProcessor

        from dmkd.classifiers.sources.foreign import foreign_classifier
        from dmkd.classifiers.sources.image_processor import preprocessing_of

        assert meant.architecture is not None
        needs = (CONFIGURATION, WEIGHTS)
        folder = resolve_folder(meant.architecture, needs=needs if weights else needs[:1], wanted=needs)
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            with torch.device("cpu"):
                processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:
            raise UsageError(f"The configuration of {meant.text} can't be read: {named_line(error)}.") from error
        with torch.device("cpu"):
            fed = preprocessing_of(processor, meant.text)
        model = _model(folder, config, meant.text, weights)
        architecture = type(model).__name__
        return foreign_classifier(meant, model, fed, architecture=architecture, class_names=_class_names(config))


def _model(folder: Path, config: Any, source: str, weights: bool) -> Any:
    import torch
    import transformers
    from transformers import AutoModelForImageClassification

    transformers.utils.logging.disable_progress_bar()
    try:
        if not weights:
            return AutoModelForImageClassification.from_config(config, trust_remote_code=False)
        model, loaded = AutoModelForImageClassification.from_pretrained(
            folder, config=config, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:
        raise DmkdError(f"The model of {source} could not be loaded: {named_line(error)}.") from error
    if missing := sorted(loaded["missing_keys"]):  # transformers leaves them at random values, with only a warning
        raise DmkdError(
            f"The weights of {source} lack {len(missing):,} of the classifier's, such as {missing[0]}: is it one, or only what "
            "classifiers are made from?"
        )
    return model.to(torch.float32)


def _class_names(config: Any) -> list[str] | None:
    names = [config.id2label[number] for number in range(config.num_labels)]
    return None if names == [f"LABEL_{number}" for number in range(len(names))] else names
