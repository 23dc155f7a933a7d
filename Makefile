# make demo, make test: all they need is Python 3.11 and what pip installs into a virtual environment of their own.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PYTEST_ARGS ?= -n auto --maxprocesses 4

.PHONY: demo test conformance lint format types docs screenshots soak chaos bench

demo: $(VENV)/.demo-installed
	$(VENV)/bin/torrelque demo $(DEMO_ARGS)

test: $(VENV)/.dev-installed
	$(PY) -m pytest $(PYTEST_ARGS)

# The conformance suite with every transport on every event loop over every server, in about 6 minutes.
conformance: $(VENV)/.dev-installed
	$(PY) -m tests.matrix $(PYTEST_ARGS)

lint: $(VENV)/.dev-installed
	$(PY) -m ruff format --check
	$(PY) -m ruff check

format: $(VENV)/.dev-installed
	$(PY) -m ruff format
	$(PY) -m ruff check --fix

# Type completeness is measured as for an installed package, hence outside of this folder, and without the clients' own types.
types: $(VENV)/.dev-installed
	$(PY) -m mypy --strict
	$(PY) -m pyright --pythonpath $(PY)
	@cd $(VENV) && PATH="$$PWD/bin:$$PATH" python -m pyright --ignoreexternal --verifytypes torrelque > verifytypes \
		&& grep 'completeness' verifytypes || { cat verifytypes; exit 1; }

docs: $(VENV)/.dev-installed
	$(PY) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo 'The documentation is in docs/_build/html/index.html'

# Take the pictures of `torrelque top` in docs/images again.
screenshots: $(VENV)/.dev-installed
	$(PY) -m docs.screenshots

# What grows with use, in about 10 minutes (GROWTH_ARGS='--rounds 50 --pattern lone_tasks'), and then the simulation
# until it is interrupted: make soak SOAK_ARGS='--seconds 600'
soak: $(VENV)/.dev-installed
	$(PY) -m tests.growth --rounds 20 $(GROWTH_ARGS)
	$(PY) -m tests.simulation $(SOAK_ARGS)

# Until it is interrupted: make chaos CHAOS_ARGS='--seconds 600'
chaos: $(VENV)/.dev-installed
	$(PY) -m tests.chaos $(CHAOS_ARGS)

# In about 5 minutes: make bench BENCH_ARGS='--quick'; more of them: make bench BENCH_ARGS='--help'
bench: $(VENV)/.dev-installed
	$(PY) -m benchmarks $(BENCH_ARGS)

$(VENV)/.demo-installed: EXTRAS := cli,coredis,embedded,trio
$(VENV)/.dev-installed: EXTRAS := dev
$(VENV)/.%-installed: pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or newer is needed, $(PYTHON) is not: name one with PYTHON=python3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
		{ echo 'python3-venv is missing: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
