"""The number types that a generator's weights can have. A module of its own, because tab completion imports it."""

DTYPES = ("float32", "bfloat16", "float16")
