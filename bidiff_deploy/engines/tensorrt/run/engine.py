"""The base class of the backends of TensorRT and TensorRT-RTX: run plans of ``build``.

A plan runs only the shapes of its profile. So an engine chooses for each shape the plan that needs
the least memory (``plans``), cuts images into tiles that a plan runs, and its errors name the
command that builds a missing plan.
"""

from __future__ import annotations

import abc
import contextlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ....errors import EngineError, UsageError, one_line
from ....images.tiles import MIN_TILE, TilePlan
from ...gpu import library as cuda_library
from ...gpu.engine import GpuEngine, precision_of
from ...gpu.failures import CudaError, DeviceFailure
from ...tile_choice import WHOLE_PIXELS, Tile
from ..api import Api
from ..plans import Plan, check, choose, current_target, default_folder, read_plans
from ..profiles import Shape, default_profile, unit_of
from .buffers import RunBuffers
from .context import Activations, OpenPlan
from .device import Device, open_device

__all__ = ["TensorRtEngine"]

_PLANS = 2  # plans kept open that no shape with buffers uses
_MAX_TILE = 1024
_Step = TypeVar("_Step", bound=RunBuffers)
_Result = TypeVar("_Result")


class TensorRtEngine(GpuEngine[_Step]):
    """The plans of one variant, and one set of buffers on the device for each shape.

    usual_tile   side, in pixels of the output, of the tile that errors name a plan for
    large_whole  whether images of more than ``WHOLE_PIXELS`` run whole if a plan does
    """

    kernel = "tensorrt"
    runtime = "tensorrt"
    usual_tile: ClassVar[int] = 256
    large_whole: ClassVar[bool] = False

    def _open_plans(self, api: Api, variant: str, device_id: int, cuda_graph: bool) -> None:
        """Open the bundle's plans of a variant; the last part of a subclass's constructor, which
        says what it raises."""
        bundle = self.bundle
        self._api, self._variant, self._device_id = api, variant, device_id
        self.kernel = self.runtime = "tensorrt-rtx" if api.rtx else "tensorrt"
        self._device = cuda_library.device_info(device_id)
        plugin = api.plugin() if variant == "plugin" else None
        self._target = current_target(api, bundle, self._device, plugin)
        self._refused: list[str] = []
        self._plans = [plan for plan in read_plans(default_folder(bundle), self._refused)
                       if (plan.info.variant, plan.info.target.precision) == (
                           variant, precision_of(bundle))]
        self._stale: list[tuple[Plan, str]] = []
        self._open: OrderedDict[tuple[Path, Shape | None], OpenPlan] = OrderedDict()
        self._gpu: Any = None
        self._require_a_plan()
        self._thread.call(self._open_device, cuda_graph)

    @abc.abstractmethod
    def _read(self, plan: Plan, content: bytes) -> OpenPlan:
        """A plan's engine, whose inputs and outputs are those of the bundle's graph."""

    def _allocate(self, gpu: Device) -> None:
        """Allocate what all shapes share."""

    def _require_a_plan(self) -> None:
        """Raise EngineError now if no shape can be run."""
        for plan in list(self._plans):
            if self._content(plan) is not None:
                return
        if self._stale:
            raise EngineError(self._stale[0][1])
        unit = unit_of(self.bundle)
        side = -(-self.usual_tile // (self._ratio * unit)) * unit
        self._choose((1, side, side))

    def _open_device(self, cuda_graph: bool) -> None:
        gpu = open_device(self._device_id, graphs=cuda_graph)
        self._gpu, self._bindings, self._activations = gpu, gpu.name, Activations(gpu)
        try:
            with gpu.current():
                self._allocate(gpu)
                if len(self._plans) == 1:
                    self._opened(self._plans[0], self._plans[0].info.profile.optimum)
                self._free, _ = gpu.memory()
        except BaseException as error:
            self._release()
            if isinstance(error, CudaError):
                raise EngineError(f"{self._device.name} cannot be used: {error}; close other "
                                  "programs on the GPU, which nvidia-smi shows") from None
            raise

    @property
    def description(self) -> str:
        """Backend, version, GPU, variant, driver bindings and precision in a few words."""
        return (f"{self.runtime} {self._api.name}, {self._device.name}, {self._variant}, by "
                f"{self._bindings}, {self.precision}")

    def tile_plan(self, height: int, width: int, tile: Tile = "auto", memory: int | None = None,
                  overlap: int | None = None) -> TilePlan:
        """As in every engine, with shapes that a plan runs.

        "auto": the whole image if the usual rules allow it and a plan runs it, else the largest
        square tile that a plan runs and that fits the memory, else the whole image.
        Raises EngineError, which lists the shapes of the plans, if no plan runs the tiles.
        """
        if tile == "auto":
            if memory is not None:
                super().tile_plan(height, width, tile, memory, overlap)  # raises if no tile fits
            return self._auto_plan(height, width, memory, overlap)
        plan = super().tile_plan(height, width, tile, memory, overlap)
        if not self._fits(plan):
            self._choose(self._shape(plan))
        return plan

    def _auto_plan(self, height: int, width: int, memory: int | None,
                   overlap: int | None) -> TilePlan:
        def planned(side: int | None) -> TilePlan:
            return super(TensorRtEngine, self).tile_plan(height, width, side, None, overlap)

        whole = planned(None)
        unit = self._ratio * unit_of(self.bundle)
        smallest = max(MIN_TILE, -(-2 * (overlap or 0) // unit) * unit)
        plans = [*map(planned, range(self._largest_tile() // unit * unit, smallest - 1, -unit)),
                 whole]
        small = whole.height * whole.width <= WHOLE_PIXELS
        if small or self.large_whole:
            plans.insert(0, whole)
        plans = [plan for plan in plans if self._fits(plan)]
        if not plans:  # name the plan that would be used
            self._choose(self._shape(whole if small else planned(max(self.usual_tile, smallest))))
        room = self._room if memory is None else memory
        fitting = [plan for plan in plans if plan.peak_bytes <= room]
        if fitting:
            return fitting[0]
        if memory is not None:
            raise UsageError(f"memory {memory >> 20} MiB is too little for every plan; give more "
                             "memory, or build a plan of smaller tiles")
        return min(plans, key=lambda plan: plan.peak_bytes)  # the estimate may be too high

    def check_tiles(self, tile: Tile, memory: int | None, overlap: int | None = None) -> None:
        # Without plans, because which plan is used depends on the image size.
        super().tile_plan(1, 1, tile, memory, overlap)

    def _largest_tile(self) -> int:
        """Side of the largest square tile that is tried, in pixels of the output."""
        return _MAX_TILE

    def _shape(self, plan: TilePlan) -> Shape:
        """The shape of the run that computes a tile."""
        return 1, plan.tile_height // self._ratio, plan.tile_width // self._ratio

    def _fits(self, plan: TilePlan) -> bool:
        return self._batch_that_runs(*self._shape(plan)) == 1

    def _batch_that_runs(self, largest: int, height: int, width: int) -> int:
        found = 0
        for plan in self._plans:
            profile = plan.info.profile
            batch = min(largest, profile.maximum[0])
            if profile.contains((batch, height, width)):
                found = max(found, batch)
        return found

    def _choose(self, shape: Shape) -> Plan:
        """The plan that runs a shape. Raises EngineError if none that fits this machine does."""
        try:
            return choose(self._plans, self._variant, precision_of(self.bundle), shape,
                          bundle=self.bundle.path, device=self._device_id, refused=self._refused)
        except EngineError as error:
            for plan, reason in self._stale:
                if plan.info.profile.contains(shape):
                    raise EngineError(reason) from None
            usual = default_profile(self.bundle)
            if not usual.contains(shape) or not all(plan.info.profile.static
                                                    for plan in self._plans):
                raise
            low, high = ("x".join(map(str, one[1:])) for one in (usual.minimum, usual.maximum))
            raise EngineError(f"{error}, or without --size for all shapes from {low} to {high}"
                              ) from None

    def _opened(self, plan: Plan, shape: Shape) -> OpenPlan | None:
        """The deserialised plan; releases others that no shape uses. None: the plan does not fit
        this machine."""
        # Before TensorRT 10 contexts of an engine cannot share an optimization profile.
        alone = self._api.version[0] < 10 and not plan.info.profile.static
        key = plan.path, shape if alone else None
        used = [step.opened for step in self._steps.values()]
        unused = [other for other, opened in self._open.items() if opened not in used]
        if key not in self._open and (same := [other for other in unused if other[0] == key[0]]):
            self._open[key] = self._open.pop(same[0])  # the shape that used it was dropped
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        content = self._content(plan)
        if content is None:
            return None
        for other in unused[:max(0, len(unused) - _PLANS + 1)]:
            self._open.pop(other).release()
        self._open[key] = self._read(plan, content)
        return self._open[key]

    def _content(self, plan: Plan) -> bytes | None:
        """The plan's bytes; None if it does not fit this machine, and it is not used again."""
        try:
            return check(plan, self._target, self.bundle.path, self._device_id)
        except EngineError as error:
            # A new list, because another thread may be reading this one.
            self._plans = [other for other in self._plans if other is not plan]
            self._stale.append((plan, str(error)))
            return None

    def _opened_for(self, shape: Shape) -> OpenPlan:
        """The deserialised plan that runs a shape."""
        opened = None
        while opened is None:  # the next best plan, if one turns out not to fit this machine
            opened = self._opened(self._choose(shape), shape)
        return opened

    def _reason(self, error: Exception) -> str:
        return one_line(error)

    def _act(self, shape: tuple[int, ...],
             action: Callable[[_Step], _Result]) -> _Result:
        try:
            with self._gpu.current():
                return super()._act(shape, action)
        except DeviceFailure as error:  # of the context itself
            failure = self._failure(error, shape)
        raise EngineError(failure)

    def _release(self) -> None:
        gpu, self._gpu = self._gpu, None
        with contextlib.suppress(EngineError):  # a GPU that has failed refuses to release memory
            with gpu.current():
                super()._release()
        with contextlib.suppress(EngineError):
            gpu.close()

    def _free_device(self) -> None:
        for opened in self._open.values():
            opened.release()
        self._open.clear()
        self._activations.release()

    def __del__(self) -> None:
        # Only the device's thread can free the memory of pycuda.
        if getattr(self, "_gpu", None) is not None and not self.closed:
            self.closed = True
            with contextlib.suppress(RuntimeError):  # at interpreter exit the context ends anyway
                self._thread.end_with(self._release)
