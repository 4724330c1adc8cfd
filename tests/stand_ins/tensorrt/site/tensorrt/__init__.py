"""The stand-in under its own name, for processes that ``tensorrt_stand_in.run`` starts; the version
is what BIDIFF_STAND_IN_TENSORRT says."""

import os
import sys

from stand_ins.tensorrt.module import make

sys.modules[__name__] = make(os.environ["BIDIFF_STAND_IN_TENSORRT"])
