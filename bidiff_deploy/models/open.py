"""Opens a model: a shipped one by name, or a bundle or checkpoint by its path."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle.manifest import MANIFEST, open_bundle
from ..engines import open_engine
from ..errors import UsageError
from .shipped import choose, is_name

if TYPE_CHECKING:
    from ..bundle.record import Bundle
    from ..engines.image_engine import ImageEngine

__all__ = ["bundle_folder", "checkpoint_file", "is_model_file", "open_model", "precision_of",
           "scale_of", "scales_of"]

ENDINGS = (".bundle", ".safetensors", ".pth", ".pt", ".ckpt", ".bin")


def is_model_file(path: str) -> bool:
    """Whether a path is a bundle's folder, or has the ending of a bundle or checkpoint."""
    return os.path.isfile(os.path.join(path, MANIFEST)) or path.rstrip("/").endswith(ENDINGS)


def open_model(model: str | os.PathLike[str] | None = None, *, scale: int | None = None,
               threads: int | None = None, backend: str = "onnxruntime",
               device: int | None = None) -> ImageEngine:
    """Open a model as an engine.

    ``model``: the name of a shipped model, or the path of a bundle or checkpoint; None: the default
    of ``scale``. The rest as ``bidiff_deploy.load_bundle`` has it. Raises UsageError for a model
    that is not there or has another scale, and as ``load_bundle`` and ``read_checkpoint``.
    """
    bundle = _bundle(None if model is None else os.fspath(model), scale)
    return open_engine(bundle, threads=threads, backend=backend, device=device)


def checkpoint_file(model: str) -> Path:
    """The file of the installed model of that name, else ``model`` as the path of a checkpoint."""
    return choose(model).path if is_name(model) else Path(model)


def precision_of(model: str) -> str:
    """With which ``export --precision`` a model is run: an installed one's own, else exact."""
    return choose(model).precision if is_name(model) else "exact"


@contextmanager
def bundle_folder(model: str, scale: int | None = None) -> Iterator[Path]:
    """The folder of a bundle: ``model`` itself, or that of a checkpoint or installed model, which
    is exported to a temporary folder, removed at the end of the with statement.

    ``scale``: chooses one of a checkpoint's; a bundle must have it. Raises UsageError for what is
    not there, and as ``read_checkpoint`` and ``export_bundle``; does not look into a folder unless
    there is a ``scale``.
    """
    if not (is_name(model) or os.path.isfile(model)):
        if not os.path.exists(model) and not is_model_file(model):
            choose(model)  # its error lists the names
        if scale is not None:
            _check_scale(model, open_bundle(model, verify=False).scale, scale)
        yield Path(model)
        return
    from ..checkpoint.read import read_checkpoint
    from ..export.write import choose_timesteps, export_bundle

    with tempfile.TemporaryDirectory(prefix="bidiff-") as folder:
        checkpoint = read_checkpoint(checkpoint_file(model), scale=scale)
        # A folder of the model's name, by which commands report it.
        bundle = Path(folder, Path(model).stem)
        export_bundle(checkpoint, bundle, timesteps=choose_timesteps(checkpoint),
                      precision=precision_of(model))
        yield bundle


def scale_of(model: str | None, scale: int | None = None) -> int:
    """The upscaling factor of the model that ``open_model`` would open. Raises as it does."""
    if model is None or is_name(model):
        return choose(model, scale).scale
    return _bundle(model, scale).scale


def scales_of(model: str) -> tuple[int, ...]:
    """Every upscaling factor of a model that ``open_model`` opens: several of a checkpoint that
    leaves the choice, else one. Raises as ``open_model``."""
    if os.path.isfile(model):
        from ..checkpoint.read import read_checkpoint
        from ..checkpoint.record import known_scale

        found = read_checkpoint(model)
        return found.network.scales(found.config) or (known_scale(found),)
    return (scale_of(model),)


def _bundle(model: str | None, scale: int | None) -> Bundle:
    if model is None or is_name(model):
        chosen = choose(model, scale)
        return _in_memory(chosen.path, None, chosen.precision)
    if os.path.isdir(model) or model.endswith(".bundle"):
        found = open_bundle(model)
    elif os.path.exists(model) or is_model_file(model):
        found = _in_memory(Path(model), scale)
    else:
        choose(model)  # its error lists the names
        raise AssertionError
    _check_scale(model, found.scale, scale)
    return found


def _check_scale(model: str, found: int, wanted: int | None) -> None:
    if wanted not in (None, found):
        raise UsageError(f"{model} upscales by {found}, not by {wanted}; leave the scale out")


def _in_memory(path: Path, scale: int | None, precision: str = "exact") -> Bundle:
    from ..checkpoint.read import read_checkpoint
    from ..export.write import bundle_in_memory, choose_timesteps

    checkpoint = read_checkpoint(path, scale=scale)
    return bundle_in_memory(checkpoint, timesteps=choose_timesteps(checkpoint),
                            precision=precision)
