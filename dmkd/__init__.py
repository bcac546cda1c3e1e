"""dmkd: knowledge distillation from diffusion images, through a store of precomputed logits.

The trip of one image, in reading order:

1. ``dmkd.recipes.recipe``              image id -> class id and seed, fixed by the recipe
2. ``dmkd.generators.sampling``         seed -> noise -> latents, by one of ``dmkd.generators.samplers``
3. ``dmkd.generators.dit``              latents -> uint8 pixels: the only rounding; teacher and student see these
4. ``dmkd.views.draw``                  image id -> crop boxes and flips, drawn once and stored
5. ``dmkd.views.render``                pixels + view -> the square that teacher and student see
6. ``dmkd.classifiers.classifier``      view -> logits
7. ``dmkd.making.blocks``               steps 1 to 6 for one block of consecutive ids
8. ``dmkd.stores.store``                the block on disk, its logits as one of ``dmkd.stores.codecs`` writes them
9. ``dmkd.loading.loader``              store -> batches of images, views and logits
10. ``dmkd.training.objective``         batch -> views (step 5 again) -> student -> ``dmkd.training.losses`` -> a number
11. ``dmkd.training.run``               step, evaluate, checkpoint

Importing this package imports neither torch, diffusers, timm nor ray. For one's own code: ``dmkd.open_store(path)`` reads
a store, ``dmkd.loader(store, labels=...)`` makes batches of one, :mod:`dmkd.datasets` wraps one for PyTorch's DataLoader.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmkd.loading.api import loader
    from dmkd.stores import open_store

__version__ = "0.1.0"
__all__ = ["__version__", "loader", "open_store"]

# In the repository the packages dmkd, dmkd.stores and dmkd.cli are the sibling folders dmkd/, stores/ and cli/.
# A Python that is started in the repository's root finds the folder dmkd/ here before any installed copy, so the
# siblings must be found from here as well. An installed package has no setup.cfg beside it.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "setup.cfg").is_file() and (_checkout / "stores" / "layout.py").is_file():
    __path__.append(str(_checkout))
del _checkout


def __getattr__(name: str) -> Any:
    """What the package offers by name is imported when it is asked for: torch takes seconds."""
    if name == "loader":
        from dmkd.loading.api import loader

        return loader
    if name == "open_store":
        from dmkd.stores import open_store

        return open_store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
