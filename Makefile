# Everything runs in .venv, which the first command makes and the later ones reuse.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-all stress soak mutants check package bench docs clean
.DELETE_ON_ERROR:

.venv/.pip:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (set PYTHON=/path/to/python)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade 'pip>=25.1'
	@touch $@

# One stamp for what users install, one for each group of tools.
.venv/.package: .venv/.pip pyproject.toml
	$(PIP) --editable '.[cookie,journal,redis,ratelimit,keyring,bots,aiogram,discord,starlette,fastapi,cli,taskiq,otel]'
	@touch $@

.venv/.%: .venv/.package
	$(PIP) --group $*
	@touch $@

demo: .venv/.package
	@$(BIN)/python -m openrouter_async.testing.demo

# Modules that are compiled are kept, whatever the environment says: hundreds of interpreters are started here, and each
# would compile the library, pytest's plugins and the tests again.
test: export PYTHONDONTWRITEBYTECODE =
test: .venv/.test .venv/.bench
	@$(BIN)/python -m coverage erase
	PYTHONDEVMODE=1 $(BIN)/python -m coverage run -m pytest --numprocesses auto --dist worksteal $(PYTEST_ARGS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

check: .venv/.test .venv/.check .venv/.bench
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python .ci/audit

# Pages that work from a disk: docs/_build/html/index.html.
docs: .venv/.docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --builder html docs docs/_build/html

# The wheel, in an environment where nothing else is; what it depends on stays installed until that changes.
package: .venv/.pip
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@[ .cache/package/.installed -nt pyproject.toml ] || { rm -rf .cache/package && $(PYTHON) -m venv .cache/package; }
	.cache/package/bin/python -m pip uninstall --quiet --disable-pip-version-check --yes openrouter-async
	.cache/package/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	@touch .cache/package/.installed
	cd .cache && package/bin/python -m openrouter_async.testing.demo

test-all:
	bash .ci/matrix

stress: .venv/.test
	STRESS=1 $(BIN)/python -m pytest -s -m stress $(PYTEST_ARGS)

# Ten minutes at work, 200 at once, one code in ten with a fault.
soak: .venv/.test
	$(BIN)/python -m tests.soak $(SOAK_ARGS)

bench: .venv/.bench
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

mutants: .venv/.test .venv/.mutation
	$(BIN)/python .ci/mutants $(MUTANTS)

clean:
	rm -rf .venv mutants dist docs/_build .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
