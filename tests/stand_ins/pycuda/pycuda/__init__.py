"""What ``engines/tensorrt/pycuda_driver.py`` uses of pycuda, by ctypes on libcuda.so.1.

pycuda itself is compiled with a CUDA toolkit, so a test cannot install it. Names and behaviour are
those of pycuda 2026.1, which was run on the emulated driver likewise: a context belongs to the
thread that pushed it, and a thread that ends with one ends the process.
"""

VERSION_TEXT = "2026.1"
