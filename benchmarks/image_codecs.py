"""Bytes an image, images a second and error of different ways to write a store's pixels.

    python benchmarks/image_codecs.py [--json]

On 256 x 256 cuts of photographs, at their own size: scikit-learn's two sample images and, where scikit-image is installed,
four of its (astronaut, coffee, chelsea, motorcycle); and on the 360 held-out digits of 32 x 32. A diffusion
model's images are smoother than photographs: expect fewer bytes. One core, best of three, this machine. Candidates from
imagecodecs are measured where it is installed (pip install imagecodecs); dmkd does not need it.

The lossless codec is chosen by a rule: the fewest bytes among those that decode at least 500 and encode at least 100 such
photographs a second on one core, with libraries that dmkd has anyway; one that zarr reads without dmkd is preferred if it
takes at most a tenth more.
"""

import argparse
import importlib.util
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import Blosc, Zstd, blosc
from PIL import Image

from dmkd import digits
from dmkd.stores.image_chunks import JpegCodec, WebpCodec

blosc.set_nthreads(1)
SIZE = 256
PHOTOGRAPHS = ("astronaut.png", "coffee.png", "chelsea.png", "motorcycle_left.png")

Encode, Decode = Callable[[np.ndarray], Any], Callable[[Any, tuple[int, ...]], np.ndarray]


def photographs() -> np.ndarray:
    """uint8 (n, 256, 256, 3): whole squares cut from the available photographs."""
    from sklearn.datasets import load_sample_images

    found = list(load_sample_images().images)
    if (package := importlib.util.find_spec("skimage")) and package.origin:
        data = Path(package.origin).parent / "data"
        found += [np.asarray(Image.open(data / name).convert("RGB")) for name in PHOTOGRAPHS if (data / name).is_file()]
    cuts = [
        image[y : y + SIZE, x : x + SIZE]
        for image in found
        for y in range(0, image.shape[0] - SIZE + 1, SIZE)
        for x in range(0, image.shape[1] - SIZE + 1, SIZE)
    ]
    return np.stack(cuts)


def differences(images: np.ndarray) -> np.ndarray:
    """Each pixel minus its left neighbour, and that minus the row above: a plane predictor's residual, modulo 256."""
    across = images.copy()
    across[:, :, 1:] -= images[:, :, :-1]
    both = across.copy()
    both[:, 1:] -= across[:, :-1]
    return both


def candidates() -> dict[str, tuple[Encode, Decode]]:
    def whole(codec: Any) -> tuple[Encode, Decode]:
        return codec.encode, lambda file, shape: np.frombuffer(codec.decode(file), np.uint8).reshape(shape)

    def predicted(codec: Any) -> tuple[Encode, Decode]:
        def decode(file: bytes, shape: tuple[int, ...]) -> np.ndarray:
            rows = np.cumsum(np.frombuffer(codec.decode(file), np.uint8).reshape(shape), axis=1, dtype=np.uint8)
            return np.cumsum(rows, axis=2, dtype=np.uint8)

        return lambda images: codec.encode(differences(images)), decode

    def each(encode: Callable[[np.ndarray], bytes], decode: Callable[[bytes], np.ndarray]) -> tuple[Encode, Decode]:
        return lambda images: [encode(image) for image in images], lambda files, _: np.stack([*map(decode, files)])

    def pillow(kind: str, **options: Any) -> tuple[Encode, Decode]:
        def encode(image: np.ndarray) -> bytes:
            file = io.BytesIO()
            Image.fromarray(image).save(file, kind, **options)
            return file.getvalue()

        return each(encode, lambda file: np.asarray(Image.open(io.BytesIO(file)).convert("RGB")))

    def ours(codec: Any) -> tuple[Encode, Decode]:
        return codec.encode_images, lambda file, shape: codec.decode_images(memoryview(file), shape)

    found: dict[str, tuple[Encode, Decode]] = {
        "raw": (
            lambda images: images.tobytes(),
            lambda file, shape: np.frombuffer(file, np.uint8).reshape(shape).copy(),
        ),
        "zstd 3": whole(Zstd(3)),
        "zstd 19": whole(Zstd(19)),
        "blosc lz4, bitshuffle": whole(Blosc("lz4", 7, Blosc.BITSHUFFLE)),
        "blosc zstd, bitshuffle": whole(Blosc("zstd", 7, Blosc.BITSHUFFLE)),
        "plane predictor, zstd 3": predicted(Zstd(3)),
        "png 6": pillow("PNG", compress_level=6),
        "webp": ours(WebpCodec()),
        "webp, method 0": pillow("WEBP", lossless=True, method=0, quality=0),
        "webp, method 2": pillow("WEBP", lossless=True, method=2, quality=0),
        "webp, method 3": pillow("WEBP", lossless=True, method=3, quality=20),
    }
    if importlib.util.find_spec("imagecodecs"):
        import imagecodecs

        found["jpeg-ls"] = each(imagecodecs.jpegls_encode, imagecodecs.jpegls_decode)
        found["jpeg 2000 ht"] = each(imagecodecs.htj2k_encode, imagecodecs.htj2k_decode)
        for effort in (1, 3):
            found[f"jpeg xl, effort {effort}"] = each(
                lambda image, effort=effort: imagecodecs.jpegxl_encode(
                    image, lossless=True, effort=effort, numthreads=1
                ),
                lambda file: imagecodecs.jpegxl_decode(file, numthreads=1),
            )
    for quality in (75, 90, 95, 98, 100):
        found[f"jpeg:{quality}"] = ours(JpegCodec(quality))
    for quality in (95, 98):
        found[f"jpeg {quality}, 4:2:0"] = pillow("JPEG", quality=quality, subsampling=2)
    found["jpeg 95, Pillow"] = pillow("JPEG", quality=95, subsampling=0)
    return found


def measure(encode: Encode, decode: Decode, images: np.ndarray) -> dict[str, float | None]:
    """``bytes`` an image, images encoded and decoded a second, ``psnr`` in dB (None: lossless)."""
    encoded, encode_seconds = _fastest(lambda: encode(images))
    decoded, decode_seconds = _fastest(lambda: decode(encoded, images.shape))
    error = np.square(decoded.astype(np.float64) - images).mean()
    size = sum(map(len, encoded)) if isinstance(encoded, list) else len(encoded)
    return {
        "bytes": size / len(images),
        "encode_per_s": len(images) / encode_seconds,
        "decode_per_s": len(images) / decode_seconds,
        "psnr": None if error == 0 else float(10 * np.log10(255**2 / error)),
    }


def _fastest(run: Callable[[], Any]) -> tuple[Any, float]:
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        result = run()
        best = min(best, max(time.process_time() - start, 1e-9))
    return result, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="last line: {images: {codec: {bytes, decode_per_s, ...}}}")
    options = parser.parse_args()
    results: dict[str, dict[str, dict[str, float | None]]] = {}
    for title, images in {"photographs": photographs(), "digits": digits.heldout()[0]}.items():
        print(f"\n{title}: {len(images)} of {images.shape[1]}x{images.shape[2]}\n")
        print(f"{'':26}{'bytes':>9}{'of raw':>8}{'decoded/s':>11}{'encoded/s':>11}{'PSNR':>10}")
        results[title] = {}
        for name, (encode, decode) in candidates().items():
            numbers = results[title][name] = measure(encode, decode, images)
            size, psnr = numbers["bytes"] or 0, numbers["psnr"]
            error = "lossless" if psnr is None else f"{psnr:.1f} dB"
            share = size / images[0].nbytes
            print(
                f"{name:26}{size:9,.0f}{share:8.1%}{numbers['decode_per_s']:11,.0f}{numbers['encode_per_s']:11,.0f}{error:>10}"
            )
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
