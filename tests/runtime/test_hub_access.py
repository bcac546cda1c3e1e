"""A hub out of reach: noticed once and quickly, whatever huggingface_hub would make of it."""

import logging

import pytest
from huggingface_hub import constants, utils

from dmkd.runtime.hub_access import hub_access


class Session:
    def __init__(self, error=None):
        self.error, self.asked = error, []

    def head(self, url, timeout):
        self.asked.append((url, timeout))
        if self.error:
            raise self.error


@pytest.mark.parametrize(("error", "offline"), [(OSError("no route to host"), True), (None, False)])
def test_a_hub_that_does_not_answer_counts_as_offline_meanwhile(monkeypatch, caplog, error, offline):
    session = Session(error)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(utils, "get_session", lambda: session)
    with hub_access():
        assert constants.HF_HUB_OFFLINE is offline
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 8s [Retry 5/5].")
    assert constants.HF_HUB_OFFLINE is False and not caplog.records
    assert [url for url, seconds in session.asked if seconds <= 5] == [constants.ENDPOINT]


def test_who_is_offline_is_not_asked_again(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(utils, "get_session", lambda: pytest.fail("the hub was asked"))
    with hub_access():
        assert constants.HF_HUB_OFFLINE is True
