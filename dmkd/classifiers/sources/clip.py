"""CLIP and its kin of the package transformers: on the Hugging Face hub, or in folders as it saves them."""

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmkd.classifiers.sources.kind import ClassifierSource, Kind
from dmkd.generators.hub import check_source, resolve_folder
from dmkd.runtime.failures import named_line
from dmkd.stores.errors import UsageError

if TYPE_CHECKING:
    from dmkd.classifiers.classifier import Classifier
    from dmkd.recipes.zero_shot import ClassPrompts

PREFIX = "clip:"
CONFIGURATION = "config.json"
IMAGES = "preprocessor_config.json|processor_config.json"
WEIGHTS = "model.safetensors|model-*.safetensors|pytorch_model.bin"
WORDS = ("spiece.model|merges.txt|tokenizer.json", "*.json")  # transformers finds what it needs among these


class Clip(Kind):
    example = "clip:openai/clip-vit-base-patch32"
    help = (
        "a zero-shot classifier by class names and --teacher-prompt: CLIP, MetaCLIP or SigLIP of transformers, as hf:"
    )
    prefix = PREFIX
    library = "transformers"
    of_words = True

    def parse(self, text: str) -> ClassifierSource | None:
        if not text.startswith(PREFIX):
            return None
        model = text.removeprefix(PREFIX)
        if not model:
            raise UsageError(f"{PREFIX} stands before a hub id or a folder, as in {self.example}.")
        check_source(model)
        path = Path(model).expanduser()
        name = path.resolve().name if path.is_dir() else model.rpartition("/")[2].partition("@")[0]
        return ClassifierSource(text, name, self, model)

    def load(self, meant: ClassifierSource, *, weights: bool, prompts: "ClassPrompts | None") -> "Classifier":
        assert meant.architecture is not None
        if prompts is None:
            raise UsageError(f"{meant.text} knows classes by their names alone, and was given none.")
        if importlib.util.find_spec("transformers") is None:
            raise UsageError(
                f"{meant.text} is a model of transformers, which is not installed: pip install 'dmkd[t2i]'."
            )
        wanted = (CONFIGURATION, IMAGES, WEIGHTS, *WORDS)
        _check_type(resolve_folder(meant.architecture, needs=(CONFIGURATION,), wanted=wanted), meant.text)
        folder = resolve_folder(meant.architecture, needs=wanted if weights else wanted[:2], wanted=wanted)

        import torch

        from dmkd.classifiers.classifier import Classifier
        from dmkd.classifiers.sources.image_processor import preprocessing_of
        from dmkd.classifiers.zero_shot import ZeroShotModel
        from dmkd.classifiers.zero_shot_transformers import load_towers

        config, processor = _configurations(folder, meant.text)
        with torch.device("cpu"):
            fed = preprocessing_of(processor, meant.text)
        if fed.input_size != config.vision_config.image_size:
            raise UsageError(
                f"{meant.text} says that it takes images of {fed.input_size} and of {config.vision_config.image_size} pixels: "
                "make its image processor's configuration and config.json agree."
            )
        towers = load_towers(folder, config, meant.text, weights)
        model = ZeroShotModel(towers, prompts)
        if not weights:
            model.skip_texts(fed.input_size)
        wnids = prompts.classes.given_wnids
        return Classifier(
            name=meant.name,
            source=meant.text,
            architecture=type(towers.model).__name__,
            model=model,
            num_classes=len(prompts.classes),
            class_names=list(prompts.classes.names),
            fixed_input_size=True,
            sha256="",
            wnids=None if wnids is None else list(wnids),
            prompts=prompts,
            **fed.to_dict(),
        )


def _check_type(folder: Path, source: str) -> None:
    """Raise ``UsageError`` for what is no such model."""
    from dmkd.classifiers.zero_shot_transformers import FAMILIES

    try:
        kind = json.loads((folder / CONFIGURATION).read_text()).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{source} is no model of transformers: one has a config.json with a model_type.") from error
    if kind not in FAMILIES:
        raise UsageError(
            f"{source} is a model of type {kind}, and a zero-shot teacher is one of {', '.join(FAMILIES)}: name one with an "
            "image tower and a text tower."
        )


def _configurations(folder: Path, source: str) -> tuple[Any, Any]:
    """Of the model, and its image processor. Raises ``UsageError`` if they can't be read."""
    import torch
    from transformers import AutoConfig, AutoImageProcessor

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("cpu"):
            return config, AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise UsageError(f"The configuration of {source} can't be read: {named_line(error)}.") from error
