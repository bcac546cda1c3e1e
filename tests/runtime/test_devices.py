"""Which devices there are, and what is said of those that there are not."""

import pytest
import torch
from torch.torch_version import TorchVersion

from dmkd.runtime.devices import check_workers, choose_device, make_deterministic
from dmkd.stores import UsageError


def test_without_a_gpu_it_is_the_cpu():
    assert choose_device(None) == "cpu" and choose_device("cpu") == "cpu"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("gpu", "is not a device: use cpu, cuda or cuda:1, or mps"),
        ("xpu", "--device xpu: dmkd runs on cpu, cuda, mps"),
        ("cuda", "has 0 GPUs that torch can use"),
        ("mps", "this machine has no Apple GPU that torch can use"),
    ],
)
def test_devices_that_there_are_not_are_one_sentence(asked, said, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match=said):
        choose_device(asked)


def test_apples_gpus_are_used_if_asked_for_and_torch_is_new_enough(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.10.0"))
    assert choose_device("mps") == "mps" and choose_device(None) != "mps"
    make_deterministic("mps", None)
    check_workers(1, "mps")
    with pytest.raises(UsageError, match="--workers 2: they would share the one Apple GPU"):
        check_workers(2, "mps")
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.9.1"))
    with pytest.raises(UsageError, match=r"--device mps needs torch 2.10, .* this is 2.9.1"):
        choose_device("mps")


def test_float32_is_float32_where_it_is_to_be_the_same_twice(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's default
    make_deterministic("cuda", None)
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
