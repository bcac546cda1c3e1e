"""The number types that models compute in. A module of its own, because tab completion imports it."""

WEIGHTS = ("float32", "bfloat16", "float16")
FLOAT8 = "float8"
DTYPES = (*WEIGHTS, FLOAT8)  # of a denoiser. float8: products over tokens; the rest, and the VAE, in bfloat16


def vae_dtype(dtype: str, asked: str | None) -> str:
    """What a VAE computes in beside a denoiser of ``dtype``: what was asked for, or the same."""
    return asked or ("bfloat16" if dtype == FLOAT8 else dtype)


# Of a classifier's forward pass; its weights are float32. tf32: the factors of products are rounded to 10 bits, on an NVIDIA GPU.
# bfloat16: products alone, under autocast.
CLASSIFIER_PRECISIONS = ("float32", "tf32", "bfloat16")


def default_classifier_precision(device: str) -> str:
    """tf32 on a GPU: as exact as the float16 that logits are stored in, at several times the speed. Else float32."""
    return "tf32" if device.startswith("cuda") else "float32"
