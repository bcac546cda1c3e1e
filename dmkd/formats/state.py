"""What an export is known by when it is continued: ``export.json`` in its folder."""

import json
import threading
import time
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from dmkd.runtime.whole_files import write_file
from dmkd.stores import UsageError
from dmkd.stores.identity import refuse_mismatch

STATE_FILE = "export.json"
SAVE_SECONDS = 5.0


class ExportState:
    """``export.json``: what the files were made of, and which ids each shard holds."""

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        self.description = description
        self._folder, self._lock = folder, threading.Lock()
        self._stored = _read_state(folder)
        self._parts: dict[str, list[int]] = dict(self._stored.get("parts", {}))
        self._images, self._saved_at = 0, 0.0

    def check(self, images: int, path: str, grown_from: Collection[str] = ()) -> None:
        """Refuse to continue an export of something else, or of more than was asked for. ``grown_from``: what the store was known
        by before it went on in further rounds."""
        if not self._stored:
            return
        made_of = self._stored["made_of"]
        if made_of.get("store") in grown_from:
            made_of = {**made_of, "store": self.description["store"]}
        refuse_mismatch(f"The export in {self._folder}", made_of, self.description, "Give another folder with --to.")
        if self._stored["images"] > images:
            raise UsageError(
                f"The export in {self._folder} was begun for {self._stored['images']:,} images, but {images:,} of {path} "
                "were asked for or are there now: finish the store, ask for as many, or give another folder with --to."
            )

    def is_done(self, name: str | None, ids: np.ndarray) -> bool:
        """Whether the file of this name is there and holds exactly these ids."""
        return name is not None and self._parts.get(name) == id_fingerprint(ids) and (self._folder / name).is_file()

    def note(self, name: str | None, ids: np.ndarray) -> None:
        """A file of this name with these ids has been written. Saved from time to time."""
        if name is None:
            return
        with self._lock:
            self._parts[name] = id_fingerprint(ids)
            if time.monotonic() - self._saved_at > SAVE_SECONDS:
                self._save()

    def save(self, images: int) -> None:
        with self._lock:
            self._images = images
            self._save()

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        state = {"dmkd_export": 1, "made_of": self.description, "images": self._images, "parts": self._parts}
        write_file(self._folder / STATE_FILE, (json.dumps(state, indent=1, sort_keys=True) + "\n").encode())


def _read_state(folder: Path) -> dict[str, Any]:
    file = folder / STATE_FILE
    if not file.exists():
        return {}
    try:
        state = json.loads(file.read_text())
        if state["dmkd_export"] == 1 and {"made_of", "images", "parts"} <= state.keys():
            return state
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UsageError(f"{file} is damaged or was not written by dmkd export: give another folder with --to.")


def id_fingerprint(ids: np.ndarray) -> list[int]:
    """How many ids, and their crc32."""
    return [len(ids), zlib.crc32(ids.astype("<i8").tobytes())]
