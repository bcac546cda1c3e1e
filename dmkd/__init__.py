"""dmkd: knowledge distillation from diffusion images, through a store of precomputed logits.

The trip of one image, in reading order:

1. ``dmkd.recipe``      image id -> class id and seed, fixed by the recipe
2. ``dmkd.sampling``    seed -> noise -> latents (``dmkd.generator`` holds the weights)
3. ``dmkd.generator``   latents -> uint8 pixels: the only rounding; teacher and student see these
4. ``dmkd.views``       image id -> crop boxes and flips, drawn once and stored
5. ``dmkd.render``      pixels + view -> the square that teacher and student see
6. ``dmkd.teachers``    view -> logits
7. ``dmkd.blocks``      steps 1 to 6 for one block of consecutive ids, written by ``dmkd.stores``
8. ``dmkd.loader``      store -> batches of images, views and logits
9. ``dmkd.train``       batches -> views (step 5 again) -> student -> ``dmkd.losses`` -> step

Importing this package imports neither torch, diffusers, timm nor ray.
"""

from pathlib import Path

__version__ = "0.1.0"

# In the repository the packages dmkd, dmkd.stores and dmkd.cli are the sibling folders dmkd/, stores/ and cli/.
# A Python that is started in the repository's root finds the folder dmkd/ here before any installed copy, so the
# siblings must be found from here as well. An installed package has no setup.cfg beside it.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "setup.cfg").is_file() and (_checkout / "stores" / "layout.py").is_file():
    __path__.append(str(_checkout))
del _checkout
