import pytest

from dmkd.stores import UsageError
from dmkd.training.execution import Execution


def test_tf32_and_float16_are_for_cuda_alone():
    for amp in ("float16", "tf32"):
        assert Execution(amp=amp).precision("cuda") == amp
        for device in ("cpu", "mps"):
            with pytest.raises(
                UsageError, match=f"^--amp {amp} needs a GPU with CUDA: use bfloat16 or off on {device}.$"
            ):
                Execution(amp=amp).precision(device)
    assert Execution().precision("mps") == Execution().precision("cpu") == "off"


def test_a_number_of_decoding_threads_below_0_is_refused():
    assert Execution(data_workers=0).data_workers == 0
    with pytest.raises(UsageError, match="--data-workers must be 0 or more, not -1"):
        Execution(data_workers=-1)
