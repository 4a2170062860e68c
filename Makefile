# Each target sets up what it needs in .venv; nothing else on the machine is touched.
PYTHON ?= python3
BIN := .venv/bin
# A process for each core, but not more than memory bears.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

.PHONY: demo test check check-matrix bench faults figures site dist clean

demo: .venv/base  ## the main job, on drawn pictures; REAL=1 fetches real weights; ARGS='--train ... --weights ...'
	$(BIN)/barenets demo $(if $(REAL),--real) $(ARGS)

test: .venv/test  ## everything but the slow tests
	$(PYTEST) -m "not slow"

check: .venv/dev  ## lint, types, what bandit and pip-audit find, the slow tests, packaging among them, and those that need torch
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit -q --ini setup.cfg
	$(BIN)/python .ci/audit.py
	$(PYTEST) -m slow --durations 25
	$(PYTEST) -m "not slow" -k torch  # those that `make test` skips where there is no torch

# uv looks for the Pythons in the PATH, where pyenv's stand-ins start nothing, and downloads what it does not find.
check-matrix: .venv/dev  ## the fast tests with the oldest and with the newest Python and libraries that setup.cfg allows
	PATH="$$PATH:$$(echo $${PYENV_ROOT:-$$HOME/.pyenv}/versions/*/bin | tr ' ' :)" \
	UV_PYTHON_INSTALL_DIR=.venv-matrix/pythons $(BIN)/tox --workdir .venv-matrix

bench: .venv/dev  ## every speed figure that is claimed, into benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks

faults: .venv/dev  ## 200 kills, full disks, damaged checkpoints, ...: what is lost, into docs/faults.md
	$(BIN)/python -m tests.faults

figures: .venv/dev  ## every figure in docs/, drawn anew: by the page that shows it, the demo and data preview
	$(BIN)/python docs/run.py
	rm -rf runs/figures
	$(BIN)/barenets demo --logdir runs/figures
	cp runs/figures/gradients.png docs/gradients.png
	$(BIN)/barenets data preview runs/figures/pictures/train --augment vgg16_preview --count 8 --size 112 \
	    --out docs/augmentation.png
	$(BIN)/python docs/run.py --shrink docs/augmentation.png

site: .venv/dev  ## docs/ and the reference as a static site in build/site
	$(BIN)/python -m sphinx -W -q -b html docs build/site

dist: .venv/dev  ## the source distribution and the wheel as they are uploaded, in dist/
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf .venv .venv-matrix build dist *.egg-info runs

.venv/base: setup.cfg
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/test: .venv/base
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

# torch is the reference of some tests; they skip without it.
.venv/dev: .venv/test
	$(BIN)/python -m pip install --quiet --editable '.[dev,parity]' torch==2.13.0
	touch $@
