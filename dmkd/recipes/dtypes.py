"""The number types that models compute in. A module of its own, because tab completion imports it."""

DTYPES = ("float32", "bfloat16", "float16")  # of a generator's weights

# Of a classifier's forward pass; its weights are float32. tf32: the factors of products are rounded to 10 bits, on an NVIDIA GPU.
# bfloat16: products alone, under autocast.
CLASSIFIER_PRECISIONS = ("float32", "tf32", "bfloat16")


def default_classifier_precision(device: str) -> str:
    """tf32 on a GPU: as exact as the float16 that logits are stored in, at several times the speed. Else float32."""
    return "tf32" if device.startswith("cuda") else "float32"
