# Two commands: `make demo` upscales real photos, `make test` runs the tests. Each does all the
# set-up it needs, in .venv; demo needs neither torch nor a GPU, and runs the commands of README.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt
NVIDIA := $(VENV)/nvidia
NVIDIA_WHEELS := tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings
TRITON := $(VENV)/triton
TRITON_WHEELS := tests/nvidia/triton.txt
TRITON_NUMPY := numpy==1.26.4 ml_dtypes==0.5.4
BUILT_FROM := pyproject.toml constraints.txt $(shell find engines -type f 2>/dev/null)
PHOTOS := $(wildcard training/photos/*.png training/photos/*.jpg)

MINUTES := 10
SEED :=

.PHONY: demo test nvidia soak lint sanitize bench cuda clean
.DELETE_ON_ERROR:

demo: $(VENV)/.cpu
	$(VENV)/bin/bidiff-deploy evaluate photo-x2 training/photos
	$(VENV)/bin/bidiff-deploy bench photo-x2 --threads 2 --rounds 5
	$(VENV)/bin/bidiff-deploy upscale $(PHOTOS) -o demo/ --compare --overwrite

# The programs of C++ that tests run, and NVRTC's machine code, are built first, once for both
# workers, and kept in build/.
test: $(VENV)/.dev
	PYTHONPATH=tests $(VENV)/bin/python -m support.native
	$(VENV)/bin/pytest -q -n 2 --dist worksteal

# Tests that need NVIDIA's own programs, which run without a GPU: an environment of its own on top of
# the tests', with about 160 MB of wheels, and one for Triton's Python backend, which needs numpy 1.
# There a missing program is a failure.
nvidia: $(NVIDIA)/.made $(TRITON)/.made
	BIDIFF_NVIDIA=1 BIDIFF_TRITON=$(abspath $(TRITON)) $(NVIDIA)/bin/python -m pytest -q \
	  -m 'nvidia or triton' tests/nvidia tests/export/test_one_file.py

# Random cases of other seeds, for MINUTES; SEED repeats one.
soak: $(VENV)/.dev
	$(VENV)/bin/python tools/soak.py --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

# What no reader has to watch: names, types, the direction of imports, the form of C++.
lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy --config-file tests/mypy.ini tests tools
	git ls-files 'engines/*.cpp' 'engines/*.h' 'engines/*.cu' | \
	  xargs $(VENV)/bin/clang-format --dry-run -Werror

# The op library under address and undefined-behaviour sanitizers.
sanitize: $(VENV)/.dev
	$(VENV)/bin/python tools/sanitize.py

# Speed of the packed kernels against float32 convolutions; wants an idle machine.
bench: $(VENV)/.cpu
	$(VENV)/bin/python tools/bench_binary_conv.py

# The GPU kernels compiled by nvcc for every architecture, and what they take of it; needs no GPU.
cuda:
	@$(PYTHON) tools/cuda_table.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed; set PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "error: python3 -m venv failed; install it (Debian: apt-get install python3-venv)" >&2; \
	  exit 1; }

# Editable: the package's Python is used where it lies; the op library is built and installed,
# for the demo without GPU kernels, whose compilation for eight architectures takes a minute.
$(VENV)/.cpu: $(VENV)/bin/python $(BUILT_FROM)
	@echo "setting up $(VENV): packages and the op library"
	BIDIFF_CUDA=OFF $(PIP) -e '.[cpu]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python $(BUILT_FROM)
	@echo "setting up $(VENV): packages, torch for training, and the op library"
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.cpu

# Without dependencies: NVIDIA's metapackages ask an index of NVIDIA's, and pytriton wants numpy 1.
$(NVIDIA)/.made: $(VENV)/.dev constraints.txt $(TRITON_WHEELS)
	@echo "setting up $(NVIDIA): $(NVIDIA_WHEELS), Triton"
	@$(call overlay,$(NVIDIA))
	@$(call wheels,$(NVIDIA),-c constraints.txt $(NVIDIA_WHEELS)) || { rm -rf $(NVIDIA); \
	  echo "error: $(NVIDIA_WHEELS) cannot be had, so no test marked nvidia was run" >&2; exit 1; }
	@$(call wheels,$(NVIDIA),-r $(TRITON_WHEELS)) || { rm -rf $(NVIDIA); \
	  echo "error: nvidia-pytriton and its client (all of $(TRITON_WHEELS)) cannot be had, so no" \
	    "test marked triton was run" >&2; exit 1; }
	@touch $@

$(TRITON)/.made: $(VENV)/.dev $(NVIDIA)/.made
	@echo "setting up $(TRITON): $(TRITON_NUMPY)"
	@$(call overlay,$(TRITON))
	@$(call wheels,$(TRITON),$(TRITON_NUMPY)) || { rm -rf $(TRITON); \
	  echo "error: $(TRITON_NUMPY) cannot be had, so no test marked triton was run" >&2; exit 1; }
	@touch $@

# An environment in the folder $(1) that also has the packages of the tests' own.
define overlay
$(VENV)/bin/python -m venv $(1) && $(VENV)/bin/python -c 'import sys, sysconfig; \
	  here = sysconfig.get_path("purelib"); there = here.replace(sys.prefix, "$(1)", 1); \
	  open(f"{there}/overlay.pth", "w").write(f"import site; site.addsitedir({here!r})\n")'
endef
wheels = $(1)/bin/python -m pip install -q --disable-pip-version-check --no-deps $(2)

clean:
	rm -rf $(VENV) build dist demo
