"""The Hugging Face hub, in reach or not: found out in seconds, and without huggingface_hub's own reports and progress bars."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

ANSWER_SECONDS = 5.0


@contextmanager
def hub_access() -> Iterator[None]:
    """While something is fetched: a hub that does not answer counts as offline, so what is in the cache is used at once and
    what is not fails at once, instead of after a minute of retries."""
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    with _without_reports():
        try:
            constants.HF_HUB_OFFLINE = offline or not _answers(constants.ENDPOINT)
            yield
        finally:
            constants.HF_HUB_OFFLINE = offline


@contextmanager
def quiet_hub() -> Iterator[None]:
    """While dmkd shows progress of its own: nothing of huggingface_hub's beside it."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    with _without_reports():
        try:
            disable_progress_bars()
            yield
        finally:
            if shown:
                enable_progress_bars()


@contextmanager
def _without_reports() -> Iterator[None]:
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _answers(endpoint: str) -> bool:
    from huggingface_hub.utils import get_session

    try:
        get_session().head(endpoint, timeout=ANSWER_SECONDS)
    except Exception:  # huggingface_hub has changed its HTTP library, and with it the errors, twice
        return False
    return True
