"""The page behind ``dmkd browse`` and ``store.browse()``: what a store holds, to look through."""
