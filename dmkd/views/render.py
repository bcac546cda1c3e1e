"""Pixels of views: what the teacher saw is what the student sees, to the bit, on any device and in any batch."""

from collections.abc import Sequence

import numpy as np
import torch

from dmkd.runtime.accelerators import upload
from dmkd.stores.errors import UsageError
from dmkd.views.policy import MIXUP_LEVELS, VIEW_COMPONENTS
from dmkd.views.resampling import EDGE, Boxes, Taps

# Memory for the work on one chunk of views: about the cache on a CPU, enough to fill an accelerator.
CHUNK_BYTES = {"cpu": 16 * 2**20}
CHUNK_BYTES_ACCELERATOR = 512 * 2**20


def render(
    images: torch.Tensor | np.ndarray,
    views: torch.Tensor | np.ndarray,
    *,
    size: int,
    interpolation: str,
    rows: torch.Tensor | np.ndarray | None = None,
    components: Sequence[str] = VIEW_COMPONENTS,
    partners: torch.Tensor | np.ndarray | None = None,
    padding: int = 0,
) -> torch.Tensor:
    """Render k views of m images to S x S pixels: uint8 (k, 3, S, S) on the device of ``images``.

    ``images`` uint8 (m, H, W, 3) RGB, on any device if a tensor. ``views`` float32 (k, P), named by ``components``, on
    the host if possible. ``rows`` int64 (k,): which image each view is of; None: view i is of image i. Boxes lie within the
    image, or leave it by up to ``padding`` pixels, and see black there.

    Views that mix need ``partners``, int64 (n,), n <= k: where among the k views each of the first n finds its partner
    (the partner's image, seen through the partner's own view). The n mixed views are returned.
    Raises ``UsageError`` for an unknown interpolation, and for arrays that do not fit together.
    """
    if not isinstance(images, torch.Tensor):
        images = torch.from_numpy(images if images.flags.writeable else images.copy())
    views = _host(views, np.float32)
    rows = np.arange(len(views)) if rows is None else _host(rows, np.int64)
    _check(images, views, rows, components, padding)
    pixels = _resample(images, views, rows, size, interpolation)
    if "partner" not in components:
        return pixels
    if partners is None:
        raise UsageError("Views that mix images can't be rendered without their partners.")
    places = _host(partners, np.int64)
    if len(places) and not (len(places) <= len(views) and 0 <= places.min() <= places.max() < len(views)):
        raise UsageError(f"Partners are asked for beyond the {len(views)} views that are given.")
    return _mix(pixels[: len(places)], pixels, places, dict(zip(components, views[: len(places)].T, strict=True)))


def render_block(
    images: torch.Tensor | np.ndarray,
    views: torch.Tensor | np.ndarray,
    *,
    size: int,
    interpolation: str,
    components: Sequence[str] = VIEW_COMPONENTS,
    padding: int = 0,
) -> torch.Tensor:
    """Render V views of each image of one block: uint8 (m, V, 3, S, S) on the device of ``images``.

    ``images`` uint8 (m, H, W, 3), the whole block if the views mix; ``views`` float32 (m, V, P), all V of the view set
    or any of them. See :func:`render`, which does it.
    """
    views = _host(views, np.float32)
    num_images, num_views, num_components = views.shape
    partners = None
    if "partner" in components:
        partner = np.rint(views[:, :, components.index("partner")]).astype(np.int64)
        partners = (partner * num_views + np.arange(num_views)).ravel()
    pixels = render(
        images,
        views.reshape(-1, num_components),
        size=size,
        interpolation=interpolation,
        rows=np.repeat(np.arange(num_images), num_views),
        components=components,
        partners=partners,
        padding=padding,
    )
    return pixels.unflatten(0, (num_images, num_views))


def normalise(
    pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """uint8 (n, 3, S, S) -> (pixels / 255 - mean) / std, computed in float32, as ``dtype`` (n, 3, S, S).

    The same bits as torchvision's ``to_tensor`` and ``normalize``.
    """
    # Tensors on the device, not Python numbers: CUDA divides by a number through its rounded reciprocal.
    constants = torch.tensor([[255.0] * len(mean), mean, std], dtype=torch.float32)
    full, shift, scale = upload(constants[..., None, None], pixels.device)
    return pixels.to(torch.float32).div_(full).sub_(shift).div_(scale).to(dtype)


def _resample(images: torch.Tensor, views: np.ndarray, rows: np.ndarray, size: int, interpolation: str) -> torch.Tensor:
    """Crop, resample and mirror: uint8 (m, H, W, 3), float32 (k, >=5), int64 (k,) -> uint8 (k, 3, S, S)."""
    _, height, width, channels = images.shape
    device = images.device
    pixels = torch.empty(len(views), channels, size, size, dtype=torch.uint8, device=device)
    if not len(views):
        return pixels
    across, down = Boxes(views[:, 1], views[:, 3], width, size), Boxes(views[:, 0], views[:, 2], height, size)
    box_across, box_down, flips = upload(np.stack([across.box, down.box, views[:, 4] > 0.5]), device)
    horizontal, vertical = Taps(across, box_across, interpolation), Taps(down, box_down, interpolation)
    mirrored = flips.bool()

    bytes_a_view = 4 * channels * (height * width + 2 * height * size + 2 * size * size)
    chunk = max(1, CHUNK_BYTES.get(device.type, CHUNK_BYTES_ACCELERATOR) // bytes_a_view)
    for start in range(0, len(views), chunk):
        here = slice(start, start + chunk)
        shown, place = np.unique(rows[here], return_inverse=True)
        image, row = upload(np.concatenate([shown, place]), device).tensor_split([len(shown)])
        # Every pass sums table rows: first columns of the image (each C x H numbers), then lines (each C x S).
        columns = images[image].permute(0, 2, 3, 1).contiguous().to(torch.float32)
        narrowed = horizontal.weighted_sum(columns.flatten(0, 1).flatten(1), row, here, mirrored[here])
        lines = narrowed.view(-1, size, channels, height).permute(0, 3, 2, 1).contiguous().to(torch.float32)
        resized = vertical.weighted_sum(
            lines.flatten(0, 1).flatten(1), torch.arange(len(lines), device=device), here, None
        )
        pixels[here] = resized.view(-1, size, channels, size).transpose(1, 2)
    return pixels


def _mix(
    pixels: torch.Tensor, others: torch.Tensor, partners: np.ndarray, component: dict[str, np.ndarray]
) -> torch.Tensor:
    """Mix each of uint8 (n, 3, S, S) with ``others[partners]``, in integers."""
    device, size = pixels.device, pixels.shape[-1]
    mixed = torch.empty_like(pixels)
    chunk = max(1, CHUNK_BYTES.get(device.type, CHUNK_BYTES_ACCELERATOR) // (16 * 3 * size * size))

    def whole(name: str, unit: int) -> np.ndarray:
        return np.rint(component[name].astype(np.float64) * unit).astype(np.int64)

    if "weight" in component:
        places, weight = upload(np.stack([partners, whole("weight", MIXUP_LEVELS)]), device)
        weight = weight.int()[:, None, None, None]
        for own, partner, k, out in zip(
            pixels.split(chunk), places.split(chunk), weight.split(chunk), mixed.split(chunk), strict=True
        ):
            out.copy_((own.int() * k + others[partner].int() * (MIXUP_LEVELS - k) + MIXUP_LEVELS // 2) >> 8)
        return mixed
    top, left = whole("mix_top", size), whole("mix_left", size)
    bottom, right = top + whole("mix_height", size), left + whole("mix_width", size)
    places, *edges = upload(np.stack([partners, top, bottom, left, right]), device)
    first_line, end_line, first_column, end_column = (edge[:, None, None, None] for edge in edges)
    line, column = torch.arange(size, device=device).view(-1, 1), torch.arange(size, device=device)
    pasted = (line >= first_line) & (line < end_line) & (column >= first_column) & (column < end_column)
    for own, partner, inside, out in zip(
        pixels.split(chunk), places.split(chunk), pasted.split(chunk), mixed.split(chunk), strict=True
    ):
        out.copy_(torch.where(inside, others[partner], own))
    return mixed


def _host(values: torch.Tensor | np.ndarray, dtype: type) -> np.ndarray:
    return np.ascontiguousarray(values.cpu().numpy() if isinstance(values, torch.Tensor) else values, dtype)


def _check(images: torch.Tensor, views: np.ndarray, rows: np.ndarray, components: Sequence[str], padding: int) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise UsageError(f"Images to render must be uint8 (n, H, W, 3), not {images.dtype} {tuple(images.shape)}.")
    if views.ndim != 2 or views.shape[1] != len(components) or tuple(components[:5]) != VIEW_COMPONENTS:
        raise UsageError(f"Views of shape {views.shape} do not have the components {', '.join(components)}.")
    if rows.shape != views.shape[:1] or (len(rows) and not 0 <= rows.min() <= rows.max() < len(images)):
        raise UsageError(f"{len(views)} views ask for images beyond the {len(images)} that are given.")
    box = views[:, :4]
    beyond = padding / np.array(images.shape[1:3]) + EDGE * bool(padding)
    inside = (box[:, :2] >= -beyond) & (box[:, 2:] > 0) & (box[:, :2] + box[:, 2:] <= 1 + beyond + EDGE)
    if not inside.all():
        bad = int((~inside.all(1)).argmax())
        raise UsageError(f"View {bad} lies outside its image: top, left, height, width = {box[bad].tolist()}.")
