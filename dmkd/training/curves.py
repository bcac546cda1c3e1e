"""The curves of a training run: metrics.jsonl, one line an epoch, and TensorBoard's event file."""

import json
from pathlib import Path
from typing import Any

from dmkd.training.run_folder import METRICS


class Curves:
    """Both files; on resumption they are written again from the checkpoint's lines, so that no line is doubled."""

    def __init__(self, out: Path, lines: list[dict[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for old in out.glob("events.out.tfevents.*"):
            old.unlink()
        self.board = SummaryWriter(out)
        self.file = (out / METRICS).open("w")
        for line in lines:
            self.add(line)

    def add(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        for key, value in line.items():
            if key != "epoch":
                self.board.add_scalar(key, value, line["epoch"])

    def close(self) -> None:
        self.file.close()
        self.board.close()
