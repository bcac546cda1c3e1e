"""A generator's name together with another VAE's: ``facebook/DiT-XL-2-256;vae=stabilityai/sd-vae-ft-mse``, as a store records its
source. A user gives the two apart, as ``--generator`` and ``--vae``."""

_BETWEEN = ";vae="


def with_vae(generator: str, vae: str | None) -> str:
    """The two as one text; with ``vae`` None the generator as it is."""
    return generator if vae is None else f"{without_vae(generator)[0]}{_BETWEEN}{vae}"


def without_vae(text: str) -> tuple[str, str | None]:
    """The generator and the VAE that a text names; None: its own."""
    generator, between, vae = text.partition(_BETWEEN)
    return generator, vae if between else None
