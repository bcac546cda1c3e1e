"""The recipe: everything that determines the pixels of a store."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmkd.recipes.class_names import names_sha256
from dmkd.recipes.prompts import Wording
from dmkd.recipes.randomness import class_order, image_seeds, key64, uniforms
from dmkd.stores.errors import MismatchError, UsageError

Order = Callable[[int, np.ndarray, np.ndarray], np.ndarray]  # seed, ids, classes -> the class of each id
SAMPLING = ("sampler", "steps", "guidance", "guidance_interval", "guided_channels")


@dataclass(frozen=True)
class Recipe:
    """What determines the pixels. Two runs with equal recipes make the same images, whoever makes which block.

    Bit for bit on one kind of machine and one set of library versions; elsewhere within one or two grey levels.
    What a generator does not understand is None.
    """

    generator: str  # its name: hub id, name of the folder, 'digits', or what a plug-in is called by
    generator_sha256: str  # of weights and configuration: the generator's true name
    image_size: int  # pixels, height and width, as the generator makes them
    classes: tuple[int, ...] | None  # class ids of the generator that are asked for, ascending; None: all
    num_classes: int  # how many the generator has
    sampler: str | None
    steps: int | None
    guidance: (
        float | tuple[float, float] | None
    )  # classifier-free guidance scale; 1: none; a range: each image draws its own
    guidance_interval: tuple[float, float] | None  # guided in this share of the noise levels (1: pure noise); None: all
    guided_channels: int | None  # how many latent channels, from the first, are guided; None: up to the pipeline
    dtype: str | None  # of the weights, of the VAE too unless vae_dtype says otherwise; latents are float32
    seed: int
    sub_batch: int  # images sampled at once; a block is cut into sub-batches of exactly this size
    compile: bool  # whether transformer and decoder went through torch.compile, which rounds differently
    cpu_threads: int | None  # torch threads, if made on a CPU: they change one pixel value in 25,000
    image_codec: str = "raw"  # how pixels are written; a lossy one changes them
    # For text-to-image generators.
    prompts: tuple[str, ...] | None = None  # templates; each image draws one; {} is its class name
    negative_prompt: str | None = None
    class_names_sha256: str | None = None  # of the store's class names; None: they are the generator's own
    vae_dtype: str | None = None  # of the VAE's weights; None: as dtype, see dmkd.recipes.dtypes.vae_dtype
    size: int | None = None  # pixels, height and width, as stored, where that is less (Pillow's bicubic)
    compact_classes: bool = False  # the store numbers the chosen classes from 0; else it keeps the generator's ids
    generator_args: Mapping[str, Any] | None = None  # what a plug-in's factory is called with: JSON-able values by name

    def to_json(self) -> dict[str, Any]:
        """JSON-able; without younger fields that are not set, as recipes were written before there were any."""
        description = dataclasses.asdict(self)
        for field in ("vae_dtype", "size", "compact_classes", "generator_args"):
            if not description[field]:
                del description[field]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in description.items()}

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> "Recipe":
        """The recipe that ``to_json`` described. A store from before a field existed lacks it and gets the default, which
        must be what every image was made with until then.

        Raises ``UsageError`` for unknown fields, and for missing ones without a default.
        """
        known = {field.name: field.default for field in dataclasses.fields(cls)}
        needed = {name for name, default in known.items() if default is dataclasses.MISSING}
        odd = (description.keys() - known.keys()) | (needed - description.keys())
        if odd:
            names = ", ".join(sorted(odd))
            raise UsageError(
                f"The store's recipe does not fit this version of dmkd; unknown or missing fields: {names}."
            )
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in description.items()}
        return cls(**values)

    def wording(self, class_names: Sequence[str]) -> Wording | None:
        """How prompts name these classes, the store's; None unless the generator is text-to-image.

        Raises ``MismatchError`` if they are not those that the store was begun with.
        """
        if self.prompts is None:
            return None
        if names_sha256(class_names) != self.class_names_sha256:
            raise MismatchError(
                "The store's class names are not those that its prompts were made from (class_names_sha256)."
            )
        return Wording(tuple(class_names), self.prompts, self.negative_prompt, self.seed)

    @property
    def asked_classes(self) -> tuple[int, ...]:
        """The classes that are asked for, as the generator numbers them, ascending."""
        return tuple(range(self.num_classes)) if self.classes is None else self.classes

    def class_places(self, ids: np.ndarray, order: Order = class_order) -> np.ndarray:
        """The classes asked for these image ids, as places in :attr:`asked_classes`: int32 (n,), dealt by ``order``."""
        return order(self.seed, ids, np.arange(len(self.asked_classes)))

    def class_ids(self, ids: np.ndarray, order: Order = class_order) -> np.ndarray:
        """The same as the store numbers them: int32 (n,)."""
        places = self.class_places(ids, order)
        return places if self.compact_classes else np.array(self.asked_classes, np.int32)[places]

    def generator_classes(self, ids: np.ndarray, order: Order = class_order) -> np.ndarray:
        """The same as the generator numbers them: int32 (n,). One that reads text is told of the store's classes alone."""
        places = self.class_places(ids, order)
        told_some = self.compact_classes and self.prompts is not None
        return places if told_some else np.array(self.asked_classes, np.int32)[places]

    def sampling(self, ids: np.ndarray) -> dict[str, Any]:
        """How these images are sampled, as options of ``ImageGenerator.sample``: the fields that are set; a scale an image."""
        options = {name: getattr(self, name) for name in SAMPLING if getattr(self, name) is not None}
        return options | ({} if self.guidance is None else {"guidance": self.image_guidance(ids)})

    def image_guidance(self, ids: np.ndarray) -> np.ndarray:
        """The guidance scales of these images: float32 (n,), uniform over the range if there is one. For generators that are
        guided."""
        assert self.guidance is not None
        low, high = self.guidance if isinstance(self.guidance, tuple) else (self.guidance, self.guidance)
        share = uniforms(key64(self.seed, "guidance"), np.asarray(ids))
        return (low + (high - low) * share).astype(np.float32)

    def image_seeds(self, ids: np.ndarray) -> np.ndarray:
        """The seeds of these images' noise: int64 (n,) below 2^32, no two alike."""
        return image_seeds(self.seed, ids)
