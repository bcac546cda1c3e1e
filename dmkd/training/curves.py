"""The curves of a training run: metrics.jsonl, one line an epoch, and TensorBoard's event file."""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from dmkd.runtime.whole_files import append_line, write_file, writing
from dmkd.training.run_folder import METRICS


class Curves:
    """Both files; on resumption they are written again from the checkpoint's lines, so that no line is doubled.

    Raises ``StoreWriteError`` if the disk fails. TensorBoard's own writer would do so in a thread, with a traceback.
    """

    def __init__(self, out: Path, lines: list[dict[str, Any]]) -> None:
        self.metrics = out / METRICS
        self.events = out / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        with writing(out):
            for old in out.glob("events.out.tfevents.*"):
                old.unlink()
        write_file(self.metrics, b"")
        self._add_event(file_version="brain.Event:2")
        for line in lines:
            self.add(line)

    def add(self, line: dict[str, Any]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        append_line(self.metrics, json.dumps(line))
        values = [Summary.Value(tag=key, simple_value=value) for key, value in line.items() if key != "epoch"]
        self._add_event(step=line["epoch"], summary=Summary(value=values))

    def _add_event(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        with writing(self.events), self.events.open("ab") as file:
            RecordWriter(file).write(Event(wall_time=time.time(), **content).SerializeToString())
