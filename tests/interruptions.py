"""Writers that are stopped between two writes, wherever that is."""

WRITES = ("create_group", "create_array", "write_constant", "write_block", "set_attributes")


def interrupt(store, after):
    """Let the store's tree be stopped when it has written ``after`` times."""
    left = [after]

    def stopping(write):
        def wrapped(*arguments, **options):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return write(*arguments, **options)

        return wrapped

    for name in WRITES:
        setattr(store.chunks.tree, name, stopping(getattr(store.chunks.tree, name)))
