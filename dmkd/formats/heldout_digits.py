"""The held-out digits as files, for whatever takes a folder of images."""

from pathlib import Path

from PIL import Image

from dmkd.digits import heldout
from dmkd.runtime.whole_files import whole_file


def write_heldout(folder: Path) -> None:
    """Write the 360 held-out digits as PNGs below ``folder``, a folder a class. Raises ``StoreWriteError`` if the disk fails."""
    for number, (pixels, class_id) in enumerate(zip(*heldout(), strict=True)):
        with whole_file(folder / str(class_id) / f"{number:03}.png") as file:
            Image.fromarray(pixels).save(file, "PNG")
