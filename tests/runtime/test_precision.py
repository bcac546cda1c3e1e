import pytest
import torch

from dmkd.runtime.precision import set_tf32, tf32


def now():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.filterwarnings("error")
def test_products_and_convolutions_are_switched_together_and_put_back():
    before = now()
    try:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True  # torch's own
        with tf32(True):
            assert now() == (True, True)
            with tf32(False):
                assert now() == (False, False)
            assert now() == (True, True)
        assert now() == (False, True)
        with pytest.raises(ZeroDivisionError), tf32(True):
            raise ZeroDivisionError
        assert now() == (False, True), "also after an error"
        set_tf32(False)
        assert now() == (False, False)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
