"""Connecting to Ray or starting it, without its own notices: progress and errors of a run are all that a user reads."""

import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dmkd.runtime.failures import reason_of
from dmkd.stores.errors import DmkdError, UsageError

# Says each time that a token protects the cluster, which it does by default, whoever started it.
NOTICES = "ray._private.authentication.authentication_token_setup"
CONNECT_SECONDS = 10.0


@contextmanager
def ray_session(workers: int, device: str, address: str | None) -> Iterator[None]:
    """A connection to the Ray cluster at ``address``; None: a Ray started on this machine, for ``workers`` workers.

    ``device`` cuda: a Ray started here has a GPU for each worker. A Ray that this process is connected to already is used
    as it is and left running. Raises ``UsageError`` if there is no cluster at the address, ``DmkdError`` if Ray does not
    start.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    gpus = workers if device.startswith("cuda") else 0
    # Without "local", Ray would join a cluster that someone else has started on this machine.
    local = {"address": "local", "num_cpus": workers, "num_gpus": gpus}
    options: dict[str, Any] = {"address": address} if address else local
    try:
        if address:
            _check_reachable(address)
        _start(**options, include_dashboard=None if address else False)
    except OSError as error:  # ConnectionError among them
        raise UsageError(
            f"There is no Ray cluster at --ray-address {address} ({reason_of(error)}): start one with `ray start --head`, "
            "or leave the option out to work on this machine."
        ) from error
    except Exception as error:  # Ray has no type of its own for what kept its processes from starting
        raise DmkdError(
            f"Ray could not be started on this machine ({reason_of(error)}): rerun the same command, or use --workers 0, "
            "which needs no Ray."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def is_connected() -> bool:
    """Whether this process is connected to a Ray already; does not import it."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def cluster_gpus(address: str) -> int:
    """How many GPUs the cluster at ``address`` has at present."""
    import ray

    with ray_session(0, "cpu", address):
        return int(ray.cluster_resources().get("GPU", 0))


def _check_reachable(address: str) -> None:
    """Raise ``OSError`` if nobody listens at ``host:port``; Ray itself would try again for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _start(**options: Any) -> None:
    """``ray.init`` with these options, logging as the program has set it up."""
    import ray

    logger = logging.getLogger(NOTICES)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        ray.init(**options, log_to_driver=False, configure_logging=False)
    finally:
        logger.setLevel(before)
