"""What the folder of a training run holds, by name. Imports nothing heavy."""

from pathlib import Path

from dmkd.stores.errors import UsageError

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
PROGRESS = "progress.json"  # how far it is, for whoever looks on
SUMMARY = "summary.json"
TRACKED = "tracked.json"  # what the trackers of --log know it by
STUDENT = "student"  # of the last epoch
BEST = "best"  # of the epoch with the best top-1, where there are images to measure it on
STUDENTS = (STUDENT, BEST)


def make_folder(folder: Path) -> None:
    """Make the folder of ``--out``. Raises ``UsageError`` where there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out: {folder} can't be made a folder: {error.strerror or error}.") from error
