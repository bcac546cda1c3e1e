"""What a shell offers for the value of an option: words, or paths. Words are read from beside what they name when they are
asked for, so nothing of dmkd is imported here and no shell waits."""

from collections.abc import Callable, Iterable
from typing import Any

from click import Context, Option, Parameter
from click.shell_completion import CompletionItem

Complete = Callable[[Context, Parameter, str], list[CompletionItem]]

IMAGE_CODECS = ("raw", "webp", "jpeg:95")
VIEWS = ("center", "rrc:8", "rrc:8+cutmix", "rrc:8+mixup", "pad:8")
DEVICES = ("cpu", "cuda", "cuda:0", "cuda:1", "mps")


def words(*known: str, later: Callable[[], Iterable[str]] | None = None) -> Complete:
    """Offer these, for ``shell_complete`` of an option or argument. ``later`` is asked when the tab key is pressed: for words
    that live beside what they name, where reading them takes imports."""

    def complete(context: Context, parameter: Parameter, incomplete: str) -> list[CompletionItem]:
        offered = (*known, *(later() if later else ()))
        return [CompletionItem(word) for word in offered if word.startswith(incomplete)]

    return complete


class ListingOption(Option):
    """An option whose help lists what there is: ``help`` has ``{}`` where ``listing()`` goes, which is asked when the help is
    shown, so that no command waits for the imports that reading the list takes."""

    def __init__(self, *arguments: Any, listing: Callable[[], str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._listing = listing

    def get_help_record(self, context: Context) -> tuple[str, str] | None:
        template = self.help or ""
        self.help = template.replace("{}", self._listing())
        try:
            return super().get_help_record(context)
        finally:
            self.help = template


def files(context: Context, parameter: Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell offer files and folders: a store is either."""
    return [CompletionItem(incomplete, type="file")]


def classifiers(context: Context, parameter: Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the classifiers that are known by name, the beginnings of names, and files."""

    def known() -> list[str]:
        from dmkd.classifiers.sources import KINDS

        return [word for kind in KINDS for word in kind.words()]

    return [*words(later=known)(context, parameter, incomplete), *files(context, parameter, incomplete)]


def folders(context: Context, parameter: Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell offer folders."""
    return [CompletionItem(incomplete, type="dir")]
