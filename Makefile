# Every verb sets up what it needs in .venv, once. `make help` lists them.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
CONSTRAINTS ?= constraints.txt
INSTALL := $(PIP) install --constraint $(CONSTRAINTS)

# The extras of files that `crfrnn refine` reads.
CONTAINERS := raster,volume,coco,remote,parquet,hdf5,safetensors,zarr

FORMATTED := $(wildcard csrc/*.cpp csrc/*.hpp csrc/*/*.cpp csrc/*/*.hpp)
CORE := CMakeLists.txt $(FORMATTED)
SOURCES := $(shell find src -name '*.py' -o -name '*.npz')
TOOLS := $(VENV)/.tools
TORCH := $(VENV)/.torch
RUNNABLE := $(VENV)/.runnable
INSTALLED := $(VENV)/.installed
BENCH := $(VENV)/.bench
CHECK_BUILD := build/check
SMOKE := build/smoke

# An environment without torch, as a plain install leaves it: the wheel, what it needs, and pytest.
# PYTHONPATH could lead to a torch elsewhere, or to the checkout.
OFFLINE := build/offline
OFFLINE_PY := $(OFFLINE)/venv/bin/python
OFFLINE_RUN := env -u PYTHONPATH PYTHONDONTWRITEBYTECODE=1 $(OFFLINE_PY)

# A process per core, up to four; one that runs out of tests takes some of the others'.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist worksteal

SITE = $(shell $(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# The GPU verbs use the Python that has a torch for the device, and change nothing in it: the package
# goes into a folder beside it, without the compiled core where that cannot be built.
GPU_PYTHON ?= python3
GPU_SITE := build/gpu
GPU_NEEDS := torch triton numpy jaxtyping PIL rich safetensors pytest
GPU_RUN := PYTHONPATH=$(abspath $(GPU_SITE)) PYTHONDONTWRITEBYTECODE=1 $(GPU_PYTHON)

.DEFAULT_GOAL := help
.PHONY: help dev demo test test-offline test-long check docs screenshots smoke sanitize bench test-gpu bench-gpu format clean
.DELETE_ON_ERROR:

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

dev: $(INSTALLED)  ## set up .venv with the package, editable, and every tool

demo: $(RUNNABLE)  ## refine the sample pictures into ./demo
	$(VENV)/bin/crfrnn demo -o demo

test: $(INSTALLED)  ## run the tests, with torch and without; ARGS="-k name" runs some, with torch
	$(PY) -m pytest $(or $(ARGS),$(PARALLEL))
	$(if $(ARGS),,$(MAKE) --no-print-directory test-offline)

test-offline: $(OFFLINE)/.installed  ## the tests that need no torch, in an environment without it
	@$(OFFLINE_RUN) -c "import importlib.util as u, sys; \
		sys.exit('$(OFFLINE)/venv: torch can be imported here' if u.find_spec('torch') else 0)"
	$(OFFLINE_RUN) -m pytest -p no:cacheprovider $(ARGS)

test-long: $(INSTALLED)  ## the tests, with a thousand inputs to each law instead of twenty
	$(PY) -m pytest --hypothesis-profile=long $(ARGS)

check: $(INSTALLED)  ## formatting, lint, types, the core and the documentation without a warning
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(FORMATTED)
	$(PY) -m cmake -S . -B $(CHECK_BUILD) -G Ninja --log-level=WARNING \
		-DCMAKE_BUILD_TYPE=Debug -DCRFRNN_WERROR=ON \
		-DCMAKE_MAKE_PROGRAM=$(abspath $(VENV))/bin/ninja -DPython_EXECUTABLE=$(abspath $(PY)) \
		-Dnanobind_DIR=$$($(PY) -m nanobind --cmake_dir)
	$(PY) -m cmake --build $(CHECK_BUILD)
	$(MAKE) --no-print-directory docs

docs: $(INSTALLED)  ## build the documentation site into build/docs; every warning is an error
	$(PY) -m sphinx --fail-on-warning --keep-going --fresh-env --quiet --builder html \
		--doctree-dir build/docs-pages docs build/docs

screenshots: $(INSTALLED)  ## draw the page of crfrnn app again, for the documentation; needs chromium
	CRFRNN_SCREENSHOTS=$(abspath docs/images/app) CRFRNN_REQUIRE_BROWSER=1 \
		$(PY) -m pytest tests/app/test_page.py -k screenshots

# With torch: an environment that reads the packages of .venv, without its editable package. A plain
# path in a .pth file does that: the .pth files that lie there are then not read.
smoke: $(INSTALLED) $(OFFLINE)/.installed  ## build the wheel, install it elsewhere, and try it there
	$(OFFLINE_RUN) .ci/smoke.py --torch without
	rm -rf $(SMOKE)
	$(PY) -m venv --without-pip $(SMOKE)/venv
	$(PIP) --python $(SMOKE)/venv install --no-deps --no-index $(OFFLINE)/*.whl
	echo $(abspath $(SITE)) > $(SMOKE)/venv$(SITE:$(abspath $(VENV))%=%)/dependencies.pth
	$(SMOKE)/venv/bin/python .ci/smoke.py --torch with

sanitize: sanitize-address sanitize-thread  ## the core's tests under ASan and UBSan, and under TSan

bench: $(BENCH)  ## measure against the other implementations
	$(PY) -m benchmarks $(ARGS)

test-gpu: $(GPU_SITE)/.installed  ## the Triton engine's tests on a CUDA device, with GPU_PYTHON
	$(GPU_RUN) -m pytest -p no:cacheprovider -W default -m gpu tests/ops/test_triton.py tests/ops/test_on_device.py tests/cli/test_device.py $(ARGS)

bench-gpu: $(GPU_SITE)/.installed  ## measure the Triton engine on a CUDA device, with GPU_PYTHON
	$(GPU_RUN) -m benchmarks gpu $(ARGS)

format: $(INSTALLED)  ## rewrite Python and C++ in the house's format
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .
	$(VENV)/bin/clang-format -i $(FORMATTED)

# A second build of the package, imported without the editable one: -S leaves .pth files unread.
SANITIZED_TESTS := tests/crf/test_filter.py tests/crf/test_filter_laws.py tests/crf/test_mean_field.py \
	tests/layer/test_gradients.py tests/offline/test_refine.py tests/crf/test_pruning.py tests/crf/test_precision.py tests/offline/test_masks.py \
	tests/offline/test_clamp.py tests/crf/test_frank_wolfe.py
sanitize-address: SANITIZERS := address,undefined
sanitize-address: LIBRARIES := libasan.so libubsan.so
sanitize-thread: SANITIZERS := thread
sanitize-thread: LIBRARIES := libtsan.so

sanitize-%: $(INSTALLED)
	CRFRNN_REQUIRE_CORE=1 $(PIP) install --no-deps --no-build-isolation --upgrade \
		--target build/$@ -Cbuild-dir=build/$@-objects -Cinstall.strip=false \
		-Ccmake.build-type=Debug -Ccmake.define.CRFRNN_SANITIZE=$(SANITIZERS) .
	rm -f build/$@/report.*
	LD_PRELOAD="$(foreach library,$(LIBRARIES),$(shell $(CXX) -print-file-name=$(library)))" \
		ASAN_OPTIONS=detect_leaks=0:log_path=build/$@/report \
		UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1:log_path=build/$@/report \
		TSAN_OPTIONS=halt_on_error=0:exitcode=0:suppressions=$(CURDIR)/csrc/thread_sanitizer.txt:log_path=build/$@/report \
		PYTHONPATH=build/$@:$(SITE) \
		setarch -R $(PY) -S -m pytest -q -p no:cacheprovider -k "not memory_of" $(SANITIZED_TESTS) \
		$(ARGS) \
		|| { cat build/$@/report.*; exit 1; }
	@# TSan cannot see the barriers of libraries that it did not compile: only the core's races count.
	@! grep -l "crfrnn::\|/_core\.c" build/$@/report.* 2> /dev/null

clean:  ## remove everything the other verbs made
	rm -rf $(VENV) build dist demo .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks

# Stamps, so that a second run starts at once. An existing .venv is used as it is.
$(PY):
	$(PYTHON) -m venv $(VENV)

$(TOOLS): $(CONSTRAINTS) | $(PY)
	@echo "Installing the build tools into $(VENV)"
	$(INSTALL) scikit-build-core nanobind cmake ninja
	@touch $@

# torch comes before anything that asks for it, so that no resolver chooses it.
$(TORCH): $(CONSTRAINTS) | $(TOOLS)
	@echo "Installing torch into $(VENV)"
	$(INSTALL) torch
	@touch $@

$(RUNNABLE): $(TOOLS) pyproject.toml $(CORE)
	@echo "Building crfrnn into $(VENV)"
	CRFRNN_REQUIRE_CORE=1 $(INSTALL) --no-build-isolation --editable ".[demo]"
	@touch $@

$(INSTALLED): $(RUNNABLE) $(TORCH)
	@echo "Installing what the checks and the tests need"
	CRFRNN_REQUIRE_CORE=1 $(INSTALL) --no-build-isolation --editable ".[app,demo,dev,docs,tune,distributed,ray,tensorboard,hub,$(CONTAINERS)]"
	@touch $@

# A build that compiles only what has changed: it shares its objects with the editable build.
$(OFFLINE)/.wheel: $(TOOLS) pyproject.toml $(CORE) $(SOURCES)
	@mkdir -p $(OFFLINE) && rm -f $(OFFLINE)/*.whl
	CRFRNN_REQUIRE_CORE=1 $(PIP) wheel --no-deps --no-build-isolation --wheel-dir $(OFFLINE) .
	@touch $@

$(OFFLINE)/.needs: pyproject.toml $(CONSTRAINTS) | $(OFFLINE)/.wheel
	@echo "Installing what the tests without torch need into $(OFFLINE)/venv"
	$(PY) -m venv --without-pip --clear $(OFFLINE)/venv
	$(PIP) --python $(OFFLINE)/venv install --constraint $(CONSTRAINTS) \
		"$$(ls $(OFFLINE)/*.whl)[demo,tune,$(CONTAINERS)]" pytest hypothesis
	@touch $@

$(OFFLINE)/.installed: $(OFFLINE)/.wheel $(OFFLINE)/.needs
	$(PIP) --python $(OFFLINE)/venv install --no-deps --no-index --force-reinstall $(OFFLINE)/*.whl
	@touch $@

$(GPU_SITE)/.installed: pyproject.toml $(CORE) $(SOURCES)
	@$(GPU_PYTHON) -c "import importlib.util as u, sys; \
		gone = [n for n in sys.argv[1:] if u.find_spec(n) is None]; \
		sys.exit('install first, beside a torch for the device: ' + ' '.join(gone) if gone else 0)" \
		$(GPU_NEEDS)
	@rm -rf $(GPU_SITE) && mkdir -p $(GPU_SITE)
	@$(GPU_PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-index \
		--no-build-isolation --target $(GPU_SITE) . 2> $(GPU_SITE)/pip.log \
		|| { echo "without the C++ core, see $(GPU_SITE)/pip.log"; cp -r src/crfrnn $(GPU_SITE)/; }
	@touch $@

$(BENCH): $(INSTALLED)
	$(INSTALL) cython setuptools
	CRFRNN_REQUIRE_CORE=1 $(INSTALL) --no-build-isolation --editable ".[bench]"
	@touch $@
