"""The licence of a generator's weights, as far as it can be known offline."""

from pathlib import Path

from dmkd.digits import GENERATORS
from dmkd.recipes.other_vae import without_vae
from dmkd.stores import Store

UNKNOWN = "unknown"

# What the authors of generators' weights allow, as the Hugging Face hub abbreviates licences.
GENERATOR_LICENCES = {
    "facebook/DiT-XL-2-256": "cc-by-nc-4.0",
    "facebook/DiT-XL-2-512": "cc-by-nc-4.0",
    **dict.fromkeys(GENERATORS, "apache-2.0"),  # parts of dmkd
}
TRAINED_ON = dict.fromkeys(GENERATORS, "the digits that it was trained on are CC BY 4.0")

# The hub's names of licences that data sets and weights often have. It takes any other as "other", with its name beside it.
HUB_LICENCES = {
    *(
        "apache-2.0",
        "mit",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc0-1.0",
        "pddl",
        "odbl",
        "odc-by",
        "unlicense",
        "gpl-3.0",
    ),
    *("cc", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
    *("openrail", "openrail++", "creativeml-openrail-m", "agpl-3.0", "c-uda", "cdla-permissive-2.0", "other", UNKNOWN),
}


def generator_licence(store: Store) -> str:
    """The licence of what made the images: of a generator known here, or from the model card next to its weights or in the
    hub's cache. ``unknown`` for imported images. Nothing is fetched."""
    source, _ = without_vae(store.source or "")  # of another VAE the licence is not known, nor asked for
    repository, _, revision = source.partition("@")
    if repository in GENERATOR_LICENCES:
        return GENERATOR_LICENCES[repository]
    card = _model_card(repository, revision or None) if source else None
    licence = None if card is None else _licence_of(card)
    return licence or UNKNOWN


def front_matter(licence: str) -> dict[str, str]:
    """A licence as in the YAML at the top of a Hugging Face card."""
    if licence.lower() in HUB_LICENCES:
        return {"license": licence.lower()}
    return {"license": "other", "license_name": licence}


def _model_card(repository: str, revision: str | None) -> Path | None:
    beside = Path(repository).expanduser() / "README.md"
    if beside.is_file():
        return beside
    from huggingface_hub import errors, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(repository, "README.md", revision=revision)
    except errors.HFValidationError:  # a folder that is gone
        return None
    return Path(cached) if isinstance(cached, str) else None


def _licence_of(card: Path) -> str | None:
    """The licence in a model card's YAML; its name, where the hub's abbreviation is only "other"."""
    from huggingface_hub import ModelCard

    try:
        data = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict()
    except Exception:  # YAML by strangers: ignored if it can't be read
        return None
    licence = data.get("license_name") if data.get("license") == "other" else data.get("license")
    return licence if isinstance(licence, str) and licence.strip() else None
