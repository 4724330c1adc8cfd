"""The module ``tensorrt_rtx_bindings`` of the stand-in for TensorRT, in a process that has its
environment and this folder's on the path."""

import sys

from stand_ins.tensorrt.module import make
from support.tensorrt_names import RTX

sys.modules[__name__] = make(RTX)
