"""Starting Ray, or connecting to it, without its own notices: progress and errors of a run are all that a user reads."""

import logging
from typing import Any

# Tells each time that a token protects the cluster, which it does by default, whoever started it.
NOTICES = "ray._private.authentication.authentication_token_setup"


def start_ray(**options: Any) -> None:
    """``ray.init`` with these options, logging as the program has set it up. Raises as it does."""
    import ray

    logger = logging.getLogger(NOTICES)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        ray.init(**options, log_to_driver=False, configure_logging=False)
    finally:
        logger.setLevel(before)
