# The front door. `make demo` and `make test` do all the set-up themselves, and only what is not yet
# done; `make help` lists the rest. Versions are in pyproject.toml, the build in setup.py.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# The tests of a file share what is slow to make, and run one after the other; files run side by side.
JOBS   ?= auto
SPREAD := -n $(JOBS) --dist loadfile
ARGS   ?=

# Three stamps: the environment, the compiled modules, the guest images.
READY  := $(VENV)/.ready
BUILT  := $(VENV)/.built
IMAGES := $(VENV)/.images

CODE   := setup.py $(wildcard ext/*.pyx ext/*.px[di] ext/*.h) \
          $(shell find hypervisor -name '*.py' -o -name '*.pxd')
GUESTS := $(shell find guests -path guests/build -prune -o -type f -print 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: demo test test-pure smoke bench lint format guests build linux linux-images fuzz soak clean help
.DELETE_ON_ERROR:

demo: build guests  ## boot a guest, move it to a second monitor, prove that it did not notice
	@$(BIN)/hv demo $(ARGS)

test: build guests  ## all tests (ARGS='-k shadow' chooses, JOBS=0 runs them in this process)
	@$(PYTEST) $(SPREAD) $(ARGS)

test-pure: build guests  ## the quicker tests with every module interpreted
	@HV_PURE=1 $(PYTEST) $(SPREAD) -m 'not slow and not fuzz and not soak' $(ARGS)

smoke: build guests  ## does it work at all? under 30 s
	@$(PYTEST) -q -x -m smoke $(ARGS)

bench: build guests linux-images  ## every benchmark, with its targets
	@$(BIN)/hv bench all $(ARGS)

lint: $(READY)  ## ruff and mypy
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check --quiet || { echo 'lint: `make format` would change files'; exit 1; }
	@$(BIN)/mypy

format: $(READY)  ## lay the code out as `make lint` wants it
	@$(BIN)/ruff format

fuzz: build guests  ## random guests and streams, for as long as HV_FUZZ_SECONDS says
	@$(PYTEST) -m fuzz $(ARGS)

soak: build guests  ## long runs with many migrations
	@$(PYTEST) -m soak $(ARGS)

build: $(BUILT)  ## compile what is compiled
guests: $(IMAGES)  ## build the guest images

linux-images:  ## Debian's Linux for i386 and busybox, through apt: the tests of Linux need them
	@test -f build/linux/initrd || $(PYTHON) tools/linux_images.py build/linux

linux: build linux-images  ## Linux booted to its shell
	@$(BIN)/hv run linux --kernel build/linux/vmlinuz --initrd build/linux/initrd \
		--append 'console=ttyS0 noapic nolapic nokaslr' $(ARGS)

$(READY): pyproject.toml tools/setup_venv.py
	@$(PYTHON) tools/setup_venv.py $(VENV)
	@touch $@

$(BUILT): $(READY) $(CODE)
	@echo 'build: Cython'
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

$(IMAGES): $(READY) $(GUESTS)
	@echo 'build: guest images'
	@$(BIN)/python setup.py guests
	@touch $@

clean:  ## back to a fresh clone (keeps nothing that was built)
	@rm -rf $(VENV) build dist *.egg-info guests/build hypervisor/_compiled.json ext/*.c
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find hypervisor \( -name '*.so' -o -path '*/images/*.elf' \) -delete
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:
	@sed -n 's/^\([a-z-]*\):.*##  */\1\t/p' $(MAKEFILE_LIST) | expand -t 12
