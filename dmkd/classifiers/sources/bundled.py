"""The bundled digit classifiers, by their names."""

from dmkd import digits
from dmkd.classifiers.sources.kind import ClassifierSource
from dmkd.classifiers.sources.timm_folders import TimmFolder


class BundledDigits(TimmFolder):
    example = "digits-resnet"
    help = f"the bundled digit classifiers: {', '.join(digits.TEACHERS)}"

    def words(self) -> list[str]:
        return list(digits.TEACHERS)

    def parse(self, text: str) -> ClassifierSource | None:
        if text not in digits.TEACHERS:
            return None
        return ClassifierSource(text, text, self, path=digits.TEACHERS[text])
