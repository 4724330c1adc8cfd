"""The list of passes that make the graph of each target, in order.

    target                passes
    CPU session           parameterize
    CUDA session          parameterize, inline, float16, update
    TensorRT, plugin      parameterize, inline, float16, lower_with_plugin, update,
                          fix_sizes, embed
    TensorRT, dense       parameterize, inline, float16, split_rows, lower_dense, update,
                          fix_sizes, embed; dense-int8 is the same with the option ``int8``

``float16`` runs where the target's maps are float16, ``update`` where the network has a loop.
``lower_with_plugin`` and ``lower_dense`` are ``lower_opset``, with our operators as nodes of the
plugin or in standard operators: one walk writes both, because they share casts, reshapes and
constants.

The first pass gets the graph of a bundle's first step, built from the manifest. Each module's
docstring has the graph before and after its pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import conditions as c
from .conditions import Condition
from .dense import lower_dense
from .embed import embed, fix_sizes
from .float16 import float16
from .inline import inline
from .parameterize import parameterize
from .plugin_nodes import lower_with_plugin
from .record import Options, ParameterizedGraph
from .split_rows import split_rows
from .update import update

__all__ = ["CPU", "CUDA", "Pass", "TENSORRT", "run_passes"]


@dataclass(frozen=True)
class Pass:
    """One step of a derivation.

    run       returns the graph after the pass; raises EngineError if the target cannot compute it
    requires  what holds before, by the passes before it
    ensures   what holds after
    when      whether options ask for the pass
    """

    run: Callable[[ParameterizedGraph, Options], ParameterizedGraph]
    requires: tuple[Condition, ...]
    ensures: tuple[Condition, ...]
    when: Callable[[Options], bool] = lambda options: True

    @property
    def name(self) -> str:
        """The name of its function."""
        return self.run.__name__


PARAMETERIZE = Pass(parameterize, (), (c.PARAMETERIZED, c.DEFINED, c.FLOAT32))
INLINE = Pass(inline, (c.PARAMETERIZED, c.DEFINED), (c.INLINED,))
FLOAT16 = Pass(float16, (c.PARAMETERIZED, c.INLINED, c.FLOAT32), (c.PARAMETERIZED, c.INLINED),
               when=lambda options: options.float16)
SPLIT_ROWS = Pass(split_rows, (c.INLINED,), (c.ROWS, c.PARAMETERIZED))
LOWER_WITH_PLUGIN = Pass(lower_with_plugin, (c.PARAMETERIZED, c.INLINED),
                         (c.LOWERED, c.PLUGIN_NODES, c.PARAMETERIZED))
LOWER_DENSE = Pass(lower_dense, (c.PARAMETERIZED, c.INLINED, c.ROWS),
                   (c.LOWERED, c.STANDARD_ONLY, c.PARAMETERIZED))
UPDATE = Pass(update, (c.PARAMETERIZED, c.INLINED), (c.LOOP, c.PARAMETERIZED),
              when=lambda options: options.loop)
FIX_SIZES = Pass(fix_sizes, (c.LOOP,), (c.AT_SHAPE,))
EMBED = Pass(embed, (c.PARAMETERIZED, c.AT_SHAPE), (c.COMPLETE,))

CPU = (PARAMETERIZE,)
CUDA = (*CPU, INLINE, FLOAT16, UPDATE)
_PLUGIN = (*CPU, INLINE, FLOAT16, LOWER_WITH_PLUGIN, UPDATE, FIX_SIZES, EMBED)
_DENSE = (*CPU, INLINE, FLOAT16, SPLIT_ROWS, LOWER_DENSE, UPDATE, FIX_SIZES, EMBED)
TENSORRT = {"plugin": _PLUGIN, "dense": _DENSE, "dense-int8": _DENSE}


def run_passes(passes: Sequence[Pass], graph: ParameterizedGraph, options: Options, *,
               check: bool = False) -> ParameterizedGraph:
    """The graph after all passes.

    ``check``: check what each requires and ensures, and raise AssertionError that names the first
    that does not hold; for tests, as only a mistake in a list or pass can break it.
    """
    for one in passes:
        if one.when(options):
            if check:
                _check(one, "requires", one.requires, graph, options)
            graph = one.run(graph, options)
            if check:
                _check(one, "ensures", one.ensures, graph, options)
    return graph


def _check(one: Pass, verb: str, conditions: Sequence[Condition], graph: ParameterizedGraph,
           options: Options) -> None:
    for condition in conditions:
        if not condition.holds(graph, options):
            raise AssertionError(f"the pass {one.name} {verb} that {condition.words}")
