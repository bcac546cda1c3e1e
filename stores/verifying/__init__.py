"""Whether a store is sound, and what to delete where it is not."""
