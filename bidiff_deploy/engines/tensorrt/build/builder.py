"""Bundle -> plan: lower the graph, let TensorRT parse it and choose kernels, write the plan.

TensorRT works in a thread of its own while this one shows the progress and handles Ctrl-C. Nothing
is written before the plan is complete.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .... import progress
from ....bundle.record import Bundle
from ....checks import whole_number
from ....errors import BidiffError, EngineError
from ...gpu import library as cuda_library
from ...gpu.noise_predictor import precision_of
from ...gpu.primary_context import current_gpu
from .. import plans
from ..api import NO_REASON, Api, open_tensorrt
from ..profiles import Profile, check_profile
from ..sidecar import MAX_WORKSPACE, VARIANTS, PlanInfo, PlanTarget
from . import timing_cache
from .network import Parsed, Settings, configure, parse
from .progress import BuildProgress, monitor_of

__all__ = ["BuildInterrupted", "build_plan"]

_TICK_SECONDS = 0.2


class BuildInterrupted(KeyboardInterrupt):
    """Ctrl-C ended a build; ``running``: TensorRT goes on, because before 8.6 it cannot be
    cancelled."""

    def __init__(self, running: bool) -> None:
        super().__init__()
        self.running = running


def build_plan(bundle: Bundle, profile: Profile, *, variant: str = "plugin",
               folder: Path | None = None, device: int = 0, workspace: int | None = None,
               level: int | None = None, overwrite: bool = False, quiet: bool = False,
               verbose: bool = False, notes: list[str] | None = None) -> plans.Plan:
    """Build one plan on GPU ``device`` and write it with its sidecar.

    Args:
        variant: plugin, dense or dense-int8.
        folder: of the plan; None: ``default_folder``.
        workspace, level: as in ``Settings``.
        notes: sentences about features that were not available are added to it.

    Raises:
        EngineError: no TensorRT, plugin or GPU; or the build fails, of a lack of memory or
            otherwise.
        UsageError: shapes that cannot be run.
        OutputError: the plan exists, or cannot be written.
        BuildInterrupted: Ctrl-C.
    """
    from ....bundle.step_graphs import StepGraphs
    from ....graphs.lowering import lower_for_tensorrt

    if variant not in VARIANTS:
        raise EngineError(f"variant {variant!r} is not known; choose one of {', '.join(VARIANTS)}")
    check_profile(profile, bundle)
    if workspace is not None:
        workspace = whole_number("--workspace", workspace, 1, MAX_WORKSPACE, unit="bytes")
    notes = [] if notes is None else notes
    folder = plans.default_folder(bundle) if folder is None else folder
    precision = precision_of(bundle)
    settings = Settings(variant, precision == "float16", profile, workspace, level)
    api = open_tensorrt(verbose)
    gpu = cuda_library.device_info(device)
    plugin = api.plugin() if variant == "plugin" else None
    target = plans.current_target(api, bundle, gpu, plugin)
    plans.reserve(folder, f"{variant}-{precision}-{profile.label}", overwrite)
    graph = lower_for_tensorrt(StepGraphs(bundle), variant=variant, float16=settings.float16,
                               plugin=plugin, opset=_opset(api, settings),
                               shape=profile.optimum if profile.static else None)
    cache = timing_cache.cache_file(api.name, gpu)
    state, started = BuildProgress(), time.monotonic()

    def build() -> Any:
        # A function, so that TensorRT's objects are destroyed while the GPU is still current.
        builder = api.builder()
        parsed = parse(api, builder, graph, plugin)
        config = configure(api, builder, parsed.network, graph, settings, notes)
        timing_cache.attach(config, timing_cache.read(cache))
        plan = _run(api, builder, parsed, config, state, settings, gpu)
        if plan is not None and api.log.other_precision:
            notes.append("TensorRT has no kernel for some layer in the graph's precision and uses "
                         "another precision there; --verbose names the layer, and bidiff-deploy "
                         "check compares the results")
        if remark := timing_cache.save(config, cache):
            notes.append(remark)
        return plan

    def work() -> Any:
        with current_gpu(device):
            return build()

    plan = _watch(work, state, f"building {precision} {variant}", quiet,
                  cancels=hasattr(api.trt, "IProgressMonitor"))
    content = memoryview(plan)
    info = _info(target, settings, content, graph.opset, time.monotonic() - started)
    return plans.write_plan(folder, content, info, overwrite)


def _opset(api: Api, settings: Settings) -> int:
    """The op set of the graph: the later one if its float16 scales are needed, without which a
    float16 network has float32 maps between its int8 convolutions. Parsers before TensorRT 10 do
    not read it."""
    from ....graphs.opset import OPSET, OPSET_OF_10

    later = settings.variant == "dense-int8" and settings.float16 and not api.weakly_typed
    return OPSET_OF_10 if later else OPSET


def _run(api: Api, builder: Any, parsed: Parsed, config: Any, state: BuildProgress,
         settings: Settings, gpu: cuda_library.DeviceInfo) -> Any:
    """The serialised engine; called by the worker's thread."""
    monitor = monitor_of(api.trt, state)
    if monitor is not None:
        config.progress_monitor = monitor
    api.log.clear()
    plan = builder.build_serialized_network(parsed.network, config)
    if plan is not None or state.cancelled:
        return plan
    reason = api.log.sentence(NO_REASON)
    if api.log.out_of_memory:
        smaller = "a smaller --size or --batch" if settings.profile.static else "a smaller --max"
        raise EngineError(f"{gpu.name} has no memory left to build a plan for "
                          f"{settings.profile.label} ({reason}); try {smaller}, limit "
                          "--workspace, or close other programs on the GPU")
    remedy = "give more --workspace, or " if settings.workspace is not None else ""
    raise EngineError(f"TensorRT {api.name} could not build a plan for {settings.profile.label} on "
                      f"{gpu.name} ({reason}); {remedy}see TensorRT's whole log with --verbose")


def _watch(work: Callable[[], Any], state: BuildProgress, label: str, quiet: bool,
           cancels: bool) -> Any:
    """The result of ``work``, run in a thread while progress is shown; Ctrl-C cancels it."""
    result: list[Any] = []
    failure: list[BaseException] = []
    # Not the thread's own state: after a join that Ctrl-C ends, the thread counts as finished.
    finished = threading.Event()

    def run() -> None:
        try:
            result.append(work())
        except BidiffError as error:
            # Its frames refer to TensorRT's objects, which must be destroyed in this thread.
            failure.append(error.with_traceback(None))
        except BaseException as error:
            failure.append(error)
        finally:
            finished.set()

    # A daemon, because a TensorRT that cannot be cancelled must not keep the process alive.
    thread = threading.Thread(target=run, name="tensorrt-build", daemon=True)
    with progress.Progress(label, 1 if cancels else None, quiet=quiet) as shown:
        thread.start()
        try:
            while not finished.wait(_TICK_SECONDS):
                share, phase = state.state()
                # Below 1 until the end, because the plan has still to be serialised.
                shown.update(min(share, 0.99), f"{label}, {phase}" if phase else label)
        except KeyboardInterrupt:
            state.cancel()
            if cancels:
                shown.update(state.state()[0], f"{label}, stopping")
                finished.wait()
            raise BuildInterrupted(not finished.is_set()) from None
    if failure:
        raise failure[0]
    return result[0]


def _info(target: PlanTarget, settings: Settings, content: memoryview, opset: int,
          seconds: float) -> PlanInfo:
    return PlanInfo(target, variant=settings.variant, profile=settings.profile,
                    bytes=content.nbytes, sha256=hashlib.sha256(content).hexdigest(), opset=opset,
                    level=settings.level, workspace=settings.workspace, seconds=round(seconds, 3))
