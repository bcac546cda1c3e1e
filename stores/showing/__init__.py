"""A store as people look at it: facts, contact sheets, the card of a notebook, xarray."""
