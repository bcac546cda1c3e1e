"""`dmkd verify`: whether a store is sound, and whether models still give what is in it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dmkd.runtime.devices import choose_device
from dmkd.runtime.progress import Display
from dmkd.stores import Store, StoreError, UsageError, locations, open_store
from dmkd.stores.tags import Tag, read_tag, read_tags, verify_tag
from dmkd.stores.tags.tag import node_of, read_digests
from dmkd.stores.verifying.finding import ERROR, NOTE, WARNING, Finding
from dmkd.stores.verifying.repair import Repair, repair
from dmkd.stores.verifying.verifier import Verifier

# torch, and what needs it, is imported where models run: reading a store through takes none.


@dataclass
class Report:
    """What was found. ``rerun_teacher`` (by label set) and ``regenerate`` are None where they were not asked for."""

    path: str
    findings: list[Finding]
    blocks: int
    chunks: int
    bytes: int  # of the arrays, uncompressed
    seconds: float
    rerun_teacher: dict[str, Any] | None = None
    regenerate: dict[str, Any] | None = None
    repair: Repair | None = None
    advice: str | None = None  # the command that makes again what is not there
    tag: Tag | None = None  # what the store was compared with, and nothing else was looked at
    counts: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = {kind: sum(f.severity == kind for f in self.findings) for kind in (ERROR, WARNING, NOTE)}

    @property
    def sound(self) -> bool:
        return not self.counts[ERROR]

    @property
    def complete(self) -> bool:
        """Whether all images and all labels that were begun are there. What is damaged is there."""
        return not any(finding.incomplete for finding in self.findings)

    @property
    def repaired(self) -> bool:
        """Whether every error that was found is gone: what was broken is deleted and counts as not made yet."""
        errors = [finding for finding in self.findings if finding.severity == ERROR]
        return self.repair is not None and not self.repair.refused and all(finding.repairable for finding in errors)

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "sound": self.sound,
            "complete": self.complete,
            "repaired": self.repaired,
            "errors": self.counts[ERROR],
            "warnings": self.counts[WARNING],
            "notes": self.counts[NOTE],
            "findings": [finding.to_json() for finding in self.findings],
            "blocks": self.blocks,
            "chunks": self.chunks,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "rerun_teacher": self.rerun_teacher,
            "regenerate": self.regenerate,
            "tag": self.tag and {"name": self.tag.name, "sha256": self.tag.sha256},
            "repair": self.repair
            and {
                "deleted": [f"{node}, block {block}" for node, block in self.repair.deleted],
                "refitted": self.repair.refitted,
                "swept": self.repair.swept,
                "refused": self.repair.refused,
                "then": self.advice,
            },
        }


def verify(
    path: str,
    *,
    mend: bool = False,
    rerun_teacher: float | None = None,
    regenerate: float | None = None,
    device: str | None = None,
    display: Display,
) -> Report:
    """Read all of a store; with shares of its blocks, in (0, 1], also label or make a sample again and compare.

    ``mend``: delete what is broken, so that the next run makes it again. Models that don't give what is stored are
    reported and nothing is deleted for it. Raises ``UsageError`` for a share out of range, for images that no generator
    made, and for mending a store that can only be read.
    """
    for option, share in (("--rerun-teacher", rerun_teacher), ("--regenerate", regenerate)):
        if share is not None and not 0 < share <= 1:
            raise UsageError(f"{option} takes a share of the blocks, greater than 0 and at most 1, not {share:g}.")
    store = open_store(path)
    if regenerate is not None and not store.source:
        raise UsageError(f"The images of {path} were not made by a generator, so they can't be made again by one.")
    if mend:
        locations.require_writable(path)
    if rerun_teacher is not None or regenerate is not None:
        device = choose_device(device)

    start = time.monotonic()
    verifier = Verifier(store)
    findings = list(verifier.attributes())
    with display.task("verify", verifier.num_blocks, unit="blocks") as advance:
        for block in range(verifier.num_blocks):
            found = list(verifier.block(block))
            findings += found
            advance(1, found[-1].where if found else "")
    findings += [*verifier.summary(), *_damaged_tags(store)]
    report_of_reading = (verifier.num_blocks, verifier.chunks, verifier.bytes, time.monotonic() - start)

    labels = pixels = mended = None
    broken = {finding.block for finding in findings if finding.severity == ERROR and finding.block is not None}
    sound = [block for block in range(verifier.num_blocks) if block not in broken]
    more: list[Finding] = []
    if rerun_teacher is not None:
        from dmkd.making.rerun import rerun_labels

        assert device is not None
        labels = {}
        for name in verifier.coders:
            labels[name], found = rerun_labels(store, name, rerun_teacher, sound, device, display)
            more += found
    if regenerate is not None:
        from dmkd.making.rerun import regenerate_images

        assert device is not None
        pixels, found = regenerate_images(store, regenerate, sound, device, display)
        more += found
    if mend:
        mended = repair(store, findings)
    report = Report(path, findings + more, *report_of_reading, labels, pixels, mended)
    if mended and (mended.images or mended.labels):
        report.advice = f"dmkd {'generate' if mended.images else 'label'} --store {path}"
    return report


def verify_against_tag(path: str, name: str, display: Display) -> Report:
    """Compare everything that a tag covers with what is there now; an error in the report is a difference. Raises ``UsageError``
    if there is no such tag."""
    store = open_store(path)
    tag = read_tag(store, name)
    start = time.monotonic()
    with display.task(f"verify tag {name}", tag.num_blocks, unit="blocks") as advance:
        findings = verify_tag(store, tag, advance)
    seconds = time.monotonic() - start
    chunks = sum(facts["blocks"] for facts in tag.arrays.values()) + len(tag.manifest["constants"])
    return Report(path, findings, tag.num_blocks, chunks, tag.bytes, seconds, tag=tag)


def _damaged_tags(store: Store) -> Iterator[Finding]:
    """Tags that nothing can be compared with any more; the store itself may be sound."""
    for name in read_tags(store):
        try:
            read_digests(store.chunks, read_tag(store, name))
        except StoreError as error:
            yield Finding(WARNING, node_of(name), str(error))
