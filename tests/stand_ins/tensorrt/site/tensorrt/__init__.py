"""The stand-in under its own name, for other processes; BIDIFF_STAND_IN_TENSORRT is the version."""

import os
import sys

from stand_ins.tensorrt.module import make

sys.modules[__name__] = make(os.environ["BIDIFF_STAND_IN_TENSORRT"])
