"""What Ray says of itself when it starts is no part of a run's output."""

import logging

import pytest
import ray
from ray._private.authentication import authentication_token_setup

from dmkd.runtime.ray_session import NOTICES, ray_session

pytestmark = pytest.mark.xdist_group("ray")


def test_ray_starts_without_its_notice_on_tokens_and_its_other_warnings_are_told(monkeypatch, caplog):
    begun = []

    def init(**options):
        authentication_token_setup._warn_token_auth_enabled()  # as ray.init does
        logging.getLogger("ray").warning("The disk is nearly full.")
        begun.append(options)

    monkeypatch.setattr(ray, "init", init)
    with ray_session(2, "cpu", None):
        pass
    assert [record.message for record in caplog.records] == ["The disk is nearly full."]
    assert begun == [
        {
            "address": "local",
            "num_cpus": 2,
            "num_gpus": 0,
            "include_dashboard": False,
            "log_to_driver": False,
            "configure_logging": False,
        }
    ]
    authentication_token_setup._warn_token_auth_enabled()
    assert "Token authentication is enabled" in caplog.text, "only the start is quiet"
    assert logging.getLogger(NOTICES).level == logging.NOTSET
