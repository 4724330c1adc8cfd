"""Bundle -> plan: lower the graph, let TensorRT parse it and choose kernels, write the plan.

TensorRT works in a thread of its own while this one shows the progress and handles Ctrl-C. Nothing
is written before the plan is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .... import progress
from ....bundle.record import Bundle
from ....checks import whole_number
from ....errors import BidiffError, EngineError, UsageError
from ...gpu import library as cuda_library
from ...gpu.engine import precision_of
from ...gpu.primary_context import current_gpu
from .. import plans
from ..api import Api, open_tensorrt
from ..log import NO_REASON
from ..profiles import Profile, check_profile
from ..sidecar import MAX_WORKSPACE, RTX_VARIANTS, VARIANTS, PlanInfo, PlanTarget
from . import timing_cache
from .network import Parsed, Settings, configure, parse
from .progress import BuildProgress, monitor_of

__all__ = ["GRAPHS", "BuildInterrupted", "build_plan"]

_CAPABILITIES = (75, 86, 89, 120)  # the generations of RTX GPUs: Turing, Ampere, Ada, Blackwell
GRAPHS = {"rtx": "dense", "rtx-int8": "dense-int8"}  # the variant of a plan's graph
_TICK_SECONDS = 0.2


class BuildInterrupted(KeyboardInterrupt):
    """Ctrl-C ended a build; ``running``: TensorRT goes on, because before 8.6 it cannot be
    cancelled."""

    def __init__(self, running: bool) -> None:
        super().__init__()
        self.running = running


def build_plan(bundle: Bundle, profile: Profile, *, variant: str = "plugin",
               folder: Path | None = None, device: int = 0, workspace: int | None = None,
               level: int | None = None, capabilities: Sequence[int] | None = None,
               overwrite: bool = False, quiet: bool = False,
               verbose: bool = False, notes: list[str] | None = None) -> plans.Plan:
    """Build one plan on GPU ``device``, or on none by TensorRT-RTX, and write it with its sidecar.

    Args:
        variant: one of ``sidecar.VARIANTS``.
        folder: of the plan; None: ``default_folder``.
        workspace, level: as in ``Settings``.
        capabilities: what TensorRT-RTX compiles for; None: one of each generation of RTX GPUs.
        notes: sentences about features that were not available are added to it.

    Raises:
        EngineError: no TensorRT, plugin or GPU; or the build fails, of a lack of memory or
            otherwise.
        UsageError: shapes that cannot be run; a capability that the bundle cannot be compiled for.
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
    rtx = variant in RTX_VARIANTS
    settings = Settings(variant, precision == "float16", profile, workspace, level,
                        _capabilities(capabilities, bundle, notes) if rtx else ())
    api = open_tensorrt(verbose, rtx)
    gpu = None if rtx else cuda_library.device_info(device)
    plugin = api.plugin() if variant == "plugin" else None
    target = plans.current_target(api, bundle, gpu, plugin, settings.capabilities)
    plans.reserve(folder, f"{variant}-{precision}-{profile.label}", overwrite)
    graph = lower_for_tensorrt(StepGraphs(bundle), variant=GRAPHS.get(variant, variant),
                               float16=settings.float16, plugin=plugin,
                               opset=_opset(api, settings),
                               shape=profile.optimum if profile.static else None)
    # TensorRT-RTX times no kernels.
    cache = None if gpu is None else timing_cache.cache_file(api.name, gpu)
    state, started = BuildProgress(), time.monotonic()

    def build() -> Any:
        # A function, so that TensorRT's objects are destroyed while the GPU is still current.
        builder = api.builder()
        parsed = parse(api, builder, graph, plugin)
        config = configure(api, builder, parsed.network, graph, settings, notes)
        if cache is not None:
            timing_cache.attach(config, timing_cache.read(cache))
        plan = _run(api, builder, parsed, config, state, settings,
                    "this machine" if gpu is None else gpu.name)
        if plan is not None and api.log.other_precision:
            notes.append("TensorRT has no kernel for some layer in the graph's precision and uses "
                         "another precision there; --verbose names the layer, and bidiff-deploy "
                         "check compares the results")
        if cache is not None and (remark := timing_cache.save(config, cache)):
            notes.append(remark)
        return plan

    def work() -> Any:
        with contextlib.nullcontext() if gpu is None else current_gpu(device):
            return build()

    plan = _watch(work, state, f"building {precision} {variant}", quiet,
                  cancels=hasattr(api.trt, "IProgressMonitor"))
    content = memoryview(plan)
    info = _info(target, settings, content, graph.opset, time.monotonic() - started)
    return plans.write_plan(folder, content, info, overwrite)


def _capabilities(wanted: Sequence[int] | None, bundle: Bundle,
                  notes: list[str]) -> tuple[int, ...]:
    """What TensorRT-RTX compiles for. Raises UsageError for sm_75 in float32 if the network has
    matrix products, as attention does: there are none for that."""
    network, config = bundle.network, bundle.config
    layers = network.count(config, *network.usual_size(config)).layers
    if precision_of(bundle) == "float16" or not any(layer.product for layer in layers):
        return tuple(_CAPABILITIES if wanted is None else wanted)
    if wanted is None:
        notes.append("not compiled for sm_75, for which TensorRT-RTX multiplies no float32 "
                     "matrices; a bundle of export --precision half runs there")
        return tuple(one for one in _CAPABILITIES if one != 75)
    if 75 in wanted:
        raise UsageError("TensorRT-RTX multiplies no float32 matrices on sm_75; leave 75 out of "
                         "--compute-capability, or export the bundle with --precision half")
    return tuple(wanted)


def _opset(api: Api, settings: Settings) -> int:
    """The op set of the graph: without our plugin the later one, whose norms are fewer kernels, and
    which has float16 scales of int8. Parsers before TensorRT 10 do not read it."""
    from ....graphs.opset import OPSET, OPSET_OF_10

    return OPSET if settings.variant == "plugin" or api.weakly_typed else OPSET_OF_10


def _run(api: Api, builder: Any, parsed: Parsed, config: Any, state: BuildProgress,
         settings: Settings, machine: str) -> Any:
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
        raise EngineError(f"{machine} has no memory left to build a plan for "
                          f"{settings.profile.label} ({reason}); try {smaller}, limit "
                          "--workspace, or close other programs on the GPU")
    remedy = "give more --workspace, or " if settings.workspace is not None else ""
    raise EngineError(f"{api.product} could not build a plan for {settings.profile.label} on "
                      f"{machine} ({reason}); {remedy}see TensorRT's whole log with --verbose")


def _watch(work: Callable[[], Any], state: BuildProgress, label: str, quiet: bool,
           cancels: bool) -> Any:
    """The result of ``work``, run in a thread while progress is shown; Ctrl-C cancels it."""
    result: list[Any] = []
    failure: list[BaseException] = []
    # Not the thread's own state: after a join that Ctrl-C ends, the thread counts as finished.
    begun, finished = threading.Event(), threading.Event()

    def run() -> None:
        begun.set()
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
        try:
            thread.start()
            while not finished.wait(_TICK_SECONDS):
                share, phase = state.state()
                # Below 1 until the end, because the plan has still to be serialised.
                shown.update(min(share, 0.99), f"{label}, {phase}" if phase else label)
        except KeyboardInterrupt:
            state.cancel()
            # Ctrl-C may come before the thread has begun, if it is to begin at all.
            if cancels and begun.wait(_TICK_SECONDS):
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
