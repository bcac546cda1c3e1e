"""One block of a store: its images, its views, its labels; and what must be settled before the first one."""
