"""Making many blocks: in this process, or on Ray actors, with progress, a run log, and Ctrl-C that finishes what is begun.

:class:`Engine` is what commands use. ``dmkd.engine.in_process`` is the loop without Ray, ``dmkd.engine.on_ray`` the one with it.
Both ask the same :class:`dmkd.engine.scheduler.Scheduler` what to do next and run the same stages of a block.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from dmkd.engine.in_process import run_here
from dmkd.engine.monitor import Monitor
from dmkd.engine.sharing import Others, Share, Todo
from dmkd.engine.stages import Order
from dmkd.runtime.devices import check_workers, cpu_cores
from dmkd.runtime.progress import Display
from dmkd.runtime.ray_session import is_connected, ray_session
from dmkd.runtime.versions import library_versions
from dmkd.stores import Store, UsageError
from dmkd.stores.packing import Folding


@dataclass(frozen=True)
class RunOptions:
    """Where the work is done."""

    workers: int | None = None  # Ray actors; 0: this process; None: one a GPU if there are several, else 0
    device: str | None = None  # None: the GPU if there is one
    ray_address: str | None = None


class Engine:
    """Makes the blocks of one store for one command. A context, so that Ray and the run log have an end.

    ``command`` and ``options`` (JSON-able) are noted in the run log.
    """

    def __init__(
        self, store: Store, run: RunOptions, device: str, display: Display, command: str, options: Mapping[str, Any]
    ) -> None:
        self.store, self.run_options, self.device, self.display = store, run, device, display
        self.workers = planned_workers(run, device)
        if device == "cpu" and not run.ray_address and (self.workers or 0) > (cores := cpu_cores()):
            display.notice(
                f"More workers ({self.workers}) than cores ({cores}): they compete for the cores, which is rarely faster."
            )
        facts = {"command": command, "options": dict(options), "versions": library_versions()}
        self._log = store.log_run(**facts, driver={"host": socket.gethostname(), "pid": os.getpid()})
        self._others = Others(store, self._log, display)
        self._exits = ExitStack()
        self._on_ray = False

    def __enter__(self) -> "Engine":
        self._exits.enter_context(self._log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exits.__exit__(kind, error, traceback)

    def run(self, order: Order, todo: Todo, what: str) -> None:
        """Make blocks of the store; progress is shown as ``what`` and counts ids. Other processes may be at the same blocks.

        A block that fails three times is set aside and named in the ``DmkdError`` at the end. A full disk or a wrong
        request ends the run at once; Ctrl-C ends it with ``KeyboardInterrupt`` when what is in hand is finished.
        """
        share = Share(self.store, todo, self._others)
        if not share.blocks:
            return
        self._log.plan(share.blocks)
        with self.display.task(what, share.total, share.done) as advance, Folding(self.store) as folding:
            monitor = Monitor(self.display, advance, self._log, folding)
            if self.workers == 0:
                run_here(order, share, monitor)
            else:
                from dmkd.engine.on_ray import run_on_ray

                if not self._on_ray:  # connected once there is something to do, until the command's end
                    address = self.run_options.ray_address
                    self._exits.enter_context(ray_session(self.workers or 1, self.device, address))
                    self._on_ray = True
                run_on_ray(order, share, monitor, workers=self.workers)


def planned_workers(run: RunOptions, device: str) -> int | None:
    """Ray actors to use; 0: this process; None: as many as the cluster has GPUs.

    By default one a GPU where there are several; this process where there is one, or none. Raises ``UsageError``.
    """
    if run.workers is not None:
        if run.workers < 0:
            raise UsageError(f"--workers must be 0 or more, not {run.workers}.")
        if run.workers == 0 and run.ray_address:
            raise UsageError(
                "--workers 0 means this process and does not go with --ray-address: leave one of them out."
            )
        if not run.ray_address and not is_connected():
            check_workers(run.workers, device)
        return run.workers
    if run.ray_address:
        if device == "cpu":
            raise UsageError("On a Ray cluster without GPUs say how many actors are to work: --workers N.")
        return None
    import torch

    gpus = torch.cuda.device_count() if device == "cuda" else 0
    return gpus if gpus > 1 else 0
