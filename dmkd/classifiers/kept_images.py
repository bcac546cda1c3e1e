"""Images that a student is measured on after every epoch: decoded once, then kept in memory."""

from collections.abc import Callable, Iterator

from dmkd.classifiers.evaluation_data import ListedImages, Pixels
from dmkd.runtime.space import available_memory, byte_size


class KeptImages:
    """The batches of listed images, or every ``processes``-th from number ``rank`` on: one process's share.

    Iterate over it as often as you like. The first time images are decoded; they are kept if the ``sharing`` processes of this
    machine then hold no more than half of the memory that is available. If not, they are decoded each time, and ``notice`` is
    told so once.
    """

    def __init__(
        self,
        listed: ListedImages,
        input_size: int,
        rank: int = 0,
        processes: int = 1,
        sharing: int = 1,
        notice: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._listed, self._notice = listed, notice
        self._numbers = range(rank, len(listed.sizes), processes)
        self._bytes = sharing * sum(listed.sizes[number] for number in self._numbers) * 3 * input_size**2
        self._kept: list[Pixels] | None = None
        self._keeps: bool | None = None

    def __iter__(self) -> Iterator[Pixels]:
        if self._kept is not None:
            yield from self._kept
            return
        if self._keeps is None:
            self._keeps = self._fit()
        seen: list[Pixels] = []
        for batch in self._listed.read(self._numbers):
            yield batch
            if self._keeps:
                seen.append(batch)
        if self._keeps:
            self._kept = seen

    def _fit(self) -> bool:
        available = available_memory()
        if 2 * self._bytes <= available:
            return True
        self._notice(
            f"The images to measure on take {byte_size(self._bytes)} as pixels, more than half of the {byte_size(available)} of "
            "memory available: they are not kept, but decoded for each evaluation."
        )
        return False
