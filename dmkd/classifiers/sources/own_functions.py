"""Classifiers of the user's own: a function that makes one, in the current folder or in an installed package; and those that
installed packages have registered under a name, as entry points."""

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from dmkd.classifiers.sources.kind import ClassifierSource, Kind
from dmkd.runtime.failures import named_line
from dmkd.runtime.own_code import check_module, is_own_code, own_function
from dmkd.stores.errors import UsageError

if TYPE_CHECKING:
    from dmkd.classifiers.classifier import Classifier
    from dmkd.recipes.zero_shot import ClassPrompts

GROUP = "dmkd.teachers"  # of entry points


class OwnFunction(Kind):
    """``package.module:function``, or the name of an entry point that stands for one. It is called without arguments, and
    returns a module, or a module and how it is fed."""

    example = "package.module:function"
    help = "a function of your own that returns a torch module, or a module and its preprocessing"

    def listed(self) -> list[tuple[str, str]]:
        return [(self.example, self.help), *((entry.name, _who(entry)) for entry in _registered())]

    def words(self) -> list[str]:
        return [entry.name for entry in _registered()]

    def parse(self, text: str) -> ClassifierSource | None:
        if is_own_code(text):
            check_module(text)
            module, _, function = text.partition(":")
            return ClassifierSource(text, f"{module.rpartition('.')[2]}.{function}", self, text)
        entry = next(iter(entry_points(group=GROUP, name=text)), None)
        return ClassifierSource(text, text, self, f"{entry.module}:{entry.attr}") if entry else None

    def load(self, meant: ClassifierSource, *, weights: bool, prompts: "ClassPrompts | None") -> "Classifier":
        import torch

        from dmkd.classifiers.sources.foreign import foreign_classifier
        from dmkd.classifiers.sources.preprocessing import Preprocessing, preprocessing_from

        assert meant.architecture is not None
        function = own_function(meant.architecture)
        with torch.device("cpu"):
            try:
                made = function()
            except Exception as error:
                raise UsageError(f"{meant.text} failed: {named_line(error)}.") from error
            model, given = made if isinstance(made, tuple) and len(made) == 2 else (made, {})
            if not isinstance(model, torch.nn.Module):
                raise UsageError(
                    f"{meant.text} returned {type(made).__name__}; it must return a torch.nn.Module, or one and a preprocessing."
                )
            given = dict(given) if isinstance(given, dict) else given
            names = given.pop("class_names", None) if isinstance(given, dict) else None
            classifier = foreign_classifier(
                meant,
                model.float(),
                preprocessing_from(given, meant.text) if given else Preprocessing(),
                architecture=meant.text,
                class_names=None if names is None else [str(name) for name in names],
            )
        return classifier if weights else classifier.to("meta")


def _registered() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda entry: entry.name)


def _who(entry: EntryPoint) -> str:
    return f"{entry.value}, of {entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
