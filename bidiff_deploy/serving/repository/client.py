"""Upscale an image file by a factor of @SCALE@ with the model @NAME@ of a Triton server.

    pip install 'tritonclient[http]' Pillow
    python client.py photo.png larger.png --url localhost:8000 --seed 0
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

_EMPTY = ("{url} answered with an empty image: its Python backend is older than its numpy; install "
          "numpy<2 into the backend's interpreter, or use Triton 24.11 or newer")


class ClientError(Exception):
    """A mistake that the user can correct, in one sentence."""


def read(path: Path) -> Any:
    """uint8 (1, H, W, 3) of an image file, upright, without transparency."""
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))[None]
    except UnidentifiedImageError:
        raise ClientError(f"{path} is not an image that Pillow can read") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ClientError(f"{path} cannot be read: {getattr(error, 'strerror', 0) or error}") \
            from None


def upscale(image: Any, url: str, model: str, seed: int | None = None, steps: int | None = None,
            timeout: float = 600.0) -> Any:
    """The model's answer to uint8 (N, H, W, 3): uint8 (N, H * @SCALE@, W * @SCALE@, 3)."""
    try:
        import numpy as np
        import tritonclient.http as triton
        from tritonclient.utils import InferenceServerException
    except ImportError as error:
        raise ClientError(f"{error.name} is not installed; run: pip install 'tritonclient[http]' "
                          "Pillow") from None

    if "://" in url:
        raise ClientError(f"{url} must be host:port alone, without {url.split('://')[0]}://")
    inputs = [triton.InferInput("image", list(image.shape), "UINT8")]
    inputs[0].set_data_from_numpy(np.ascontiguousarray(image))
    for name, value in (("seed", seed), ("steps", steps)):
        if value is not None:
            inputs.append(triton.InferInput(name, [len(image), 1], "INT64"))
            inputs[-1].set_data_from_numpy(np.full((len(image), 1), value, np.int64))
    client = None
    try:
        client = triton.InferenceServerClient(url, network_timeout=timeout)
        if not client.is_model_ready(model):
            raise ClientError(f"model {model!r} is not ready on the server at {url}; see the "
                              "server's log, or give another --model")
        return client.infer(model, inputs).as_numpy("image")
    except InferenceServerException as error:
        if "shape does not match size of output" in str(error.message()):
            raise ClientError(_EMPTY.format(url=url)) from None
        if "is not healthy" in str(error.message()):
            raise ClientError(f"a worker of {model} at {url} has died, see the server's log; "
                              "unload and load the model again (README.md), or restart the server"
                              ) from None
        raise ClientError(f"{model} at {url} refused the request: {error.message()}") from None
    except ValueError:  # of numpy, about the shape of no bytes
        raise ClientError(_EMPTY.format(url=url)) from None
    except TimeoutError:
        raise ClientError(f"{url} did not answer within {timeout:g} s; send a smaller image, or "
                          "give a larger --timeout") from None
    except OSError as error:
        raise ClientError(f"{url} cannot be reached ({error.strerror or error}); give host:port of "
                          "Triton's HTTP service as --url") from None
    finally:
        if client is not None:
            client.close()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description="Upscale an image file with a Triton server.")
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path, help="a file that does not exist yet, such as x.png")
    parser.add_argument("--url", default="localhost:8000", help="host:port of Triton's HTTP")
    parser.add_argument("--model", default="@NAME@")
    parser.add_argument("--seed", type=int, help="of the noise; the same seed gives the same image")
    parser.add_argument("--steps", type=int, help="number of the model's time steps to visit")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds to wait")
    options = parser.parse_args(arguments)
    try:
        if options.output.exists():
            raise ClientError(f"{options.output} already exists; give another name")
        image = read(options.input)
        larger = upscale(image, options.url, options.model, options.seed, options.steps,
                         options.timeout)[0]
        write(options.output, larger)
    except ImportError as error:
        print(f"error: {error.name} is not installed; run: pip install 'tritonclient[http]' Pillow",
              file=sys.stderr)
        return 1
    except ClientError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {larger.shape[1]}x{larger.shape[0]}")
    return 0


def write(path: Path, pixels: Any) -> None:
    """Write uint8 (H, W, 3) as an image file."""
    from PIL import Image

    try:
        Image.fromarray(pixels).save(path)
    except (OSError, ValueError) as error:
        raise ClientError(f"{path} cannot be written: {getattr(error, 'strerror', 0) or error}") \
            from None


if __name__ == "__main__":
    sys.exit(main())
