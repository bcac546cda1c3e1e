"""Generators of the user's own: a function that makes one, in the current folder or in an installed package; and those that
installed packages have registered under a name, as entry points."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from dmkd.generators.defaults import DM_KD_DEFAULTS
from dmkd.generators.interface import GeneratorFacts, ImageGenerator, Loading, Told
from dmkd.generators.sources.kind import GeneratorSource, Kind
from dmkd.runtime.own_code import check_module, is_own_code
from dmkd.stores.errors import UsageError

GROUP = "dmkd.generators"  # of entry points


class Plugins(Kind):
    """``package.module:factory``, or the name of an entry point that stands for one."""

    example = "package.module:factory"
    help = "a function of your own that returns a generator, with --generator-arg key=value"
    own_code = True
    numbered = True

    def listed(self) -> list[tuple[str, str]]:
        registered = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
        return [(self.example, self.help), *((entry.name, _who(entry)) for entry in registered)]

    def parse(self, text: str) -> GeneratorSource | None:
        if "/" in text:
            return None
        if ":" in text and not is_own_code(text):
            raise UsageError(f"{text!r} is not of the form package.module:factory (a module's name, without .py).")
        return GeneratorSource(text, text, None, DM_KD_DEFAULTS, self) if _factory(text) else None

    def check(self, source: GeneratorSource) -> None:
        check_module(_found(source.text))

    def describe(self, weights: str, told: Told) -> GeneratorFacts:
        from dmkd.generators.plugin import describe_plugin

        return describe_plugin(weights, _found(weights), told)

    def configured(self, weights: str, told: Told) -> tuple[GeneratorFacts, list[dict[str, Any]]]:
        from dmkd.generators.plugin import make_plugin

        return make_plugin(weights, _found(weights), told).info, []

    def load(self, weights: str, told: Told, loading: Loading, device: str) -> ImageGenerator:
        from dmkd.generators.plugin import make_plugin

        return make_plugin(weights, _found(weights), told, device)


def _factory(text: str) -> str | None:
    """What makes the generator, as ``package.module:factory``; None: a text that is neither that nor a registered name."""
    if is_own_code(text):
        return text
    return next((f"{entry.module}:{entry.attr}" for entry in entry_points(group=GROUP, name=text)), None)


def _found(text: str) -> str:
    factory = _factory(text)
    assert factory is not None  # or it would not have been parsed as one of this kind
    return factory


def _who(entry: EntryPoint) -> str:
    return f"{entry.value}, of {entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
