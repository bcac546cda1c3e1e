"""The types of number that a generator's weights can have. A module of its own, as a shell asks for them at the tab key."""

DTYPES = ("float32", "bfloat16", "float16")
