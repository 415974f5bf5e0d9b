# Everything runs in .venv, which the first command creates and later ones reuse; the site has .cache/docs.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
EXTRAS := cookie,journal,redis,keyring,bots,aiogram,discord,starlette,fastapi,cli,taskiq,otel
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-busy test-wheel test-all stress soak mutants check package extras newcomer bench docs mounts clean
.DELETE_ON_ERROR:

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (set PYTHON=/path/to/python)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.pip: | .venv/bin/python
	$(PIP) --upgrade 'pip>=25.1'
	@touch $@

# Each stamp stands for one set of packages. The demo needs the core alone, and no newer pip.
.venv/.demo: pyproject.toml | .venv/bin/python
	$(PIP) --editable .
	@touch $@

.venv/.package: .venv/.pip pyproject.toml
	$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@

.venv/.%: .venv/.package
	$(PIP) --group $*
	@touch $@

demo: .venv/.demo
	@$(BIN)/python -m openrouter_async.testing.demo

# Keep bytecode even where PYTHONDONTWRITEBYTECODE is set: the tests start hundreds of interpreters, and each of them
# would compile the library, pytest's plugins and the tests again. Development mode would also check each allocation
# of memory, which finds faults of C code, and takes an eighth of the time.
test test-busy test-wheel: export PYTHONDONTWRITEBYTECODE =
test test-busy test-wheel: export PYTHONMALLOC = default
test: .venv/.test .venv/.bench
	@$(BIN)/python -m coverage erase
	PYTHONDEVMODE=1 $(BIN)/python -m coverage run -m pytest --numprocesses auto --dist worksteal $(PYTEST_ARGS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

# The tests that depended on a quick machine once, 20 times in a row, while two other processes keep both cores busy.
BUSY_DOCS := many-workers fastapi aiohttp command-line
BUSY_TESTS ?= tests/cli tests/fake/test_api.py tests/fake/test_sandbox.py \
	$(addprefix tests/wire/,test_faults.py test_single_flight.py test_stale.py test_tally.py) \
	$(addprefix tests/batch/,test_batch.py test_stress.py test_workers.py) \
	$(addprefix tests/login/,test_callbacks.py test_lease.py test_loopback.py test_redis.py test_workers.py) \
	$(addprefix tests/integrations/,test_attacks_browser.py test_browser.py) \
	$(BUSY_DOCS:%='tests/test_docs.py::test_document_examples_as_written_run[docs/how-to/%.md]')
# One framework of four stands for the others here.
BUSY_FILTER := not aiohttp] and not fastapi] and not starlette]
BUSY_RUNS ?= 20
# As many seeds as the property tests get in a day of ordinary runs.
BUSY_SEEDS ?= 100
PROPERTIES = $(shell grep -rlE '^(from|import) (hypothesis|schemathesis)' tests --include='test_*.py')
test-busy: .venv/.test
	@trap 'kill $$first $$second' EXIT; trap 'exit 130' INT; trap 'exit 143' TERM HUP; \
	$(BIN)/python -c 'while True: pass' & first=$$!; \
	$(BIN)/python -c 'while True: pass' & second=$$!; \
	for run in $$(seq $(BUSY_RUNS)); do \
		echo "== run $$run"; \
		PYTHONDEVMODE=1 $(BIN)/python -m pytest --quiet --numprocesses 4 --dist worksteal -k '$(BUSY_FILTER)' \
			$(PYTEST_ARGS) $(BUSY_TESTS) || exit 1; \
	done; \
	seq $(BUSY_SEEDS) | PYTHONDEVMODE=1 xargs -P 4 -I % sh -c \
		'told=$$($(BIN)/python -m pytest --quiet -m hypothesis --hypothesis-seed=% $(PYTEST_ARGS) $(PROPERTIES) 2>&1) && \
		echo "seed %: $$(echo "$$told" | tail -1)" || { echo "== seed %"; echo "$$told"; exit 1; }'

check: .venv/.test .venv/.check .venv/.bench
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python .ci/audit

# The pages work from a disk: docs/_build/html/index.html. They have an environment of their own, since the reference
# imports every module, and so needs every extra but none of the tools.
.cache/docs/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (set PYTHON=/path/to/python)"; exit 1; }
	[ -x .cache/docs/bin/python ] || $(PYTHON) -m venv .cache/docs
	.cache/docs/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	.cache/docs/bin/python -m pip install --quiet --disable-pip-version-check --group docs --editable '.[$(EXTRAS)]'
	@touch $@

docs: .cache/docs/.installed .venv/.test
	rm -rf docs/_build
	.cache/docs/bin/python -m sphinx --quiet --fail-on-warning --keep-going --builder html docs docs/_build/html
	$(BIN)/python -m pytest --quiet --numprocesses auto $(PYTEST_ARGS) tests/site

# Documents with more frameworks than .venv has, in an environment of their own.
.cache/mounts/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (set PYTHON=/path/to/python)"; exit 1; }
	[ -x .cache/mounts/bin/python ] || $(PYTHON) -m venv .cache/mounts
	.cache/mounts/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	.cache/mounts/bin/python -m pip install --quiet --disable-pip-version-check --group mounts --editable '.[$(EXTRAS)]'
	@touch $@

mounts: .cache/mounts/.installed
	.cache/mounts/bin/python -m pytest --numprocesses 2 -m mounts tests/test_docs.py $(PYTEST_ARGS)

# The wheel alone in an environment, which keeps the dependencies until pyproject.toml changes.
package: .venv/.pip
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@[ .cache/package/.installed -nt pyproject.toml ] || { rm -rf .cache/package && $(PYTHON) -m venv .cache/package; }
	.cache/package/bin/python -m pip uninstall --quiet --disable-pip-version-check --yes openrouter-async
	.cache/package/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	@touch .cache/package/.installed
	cd .cache && package/bin/python -m openrouter_async.testing.demo

# Each extra by itself, with the wheel, in a fresh environment.
extras: .venv/.test
	$(BIN)/python -m tests.extras $(EXTRAS_TO_TRY)

# A fresh clone of the last commit, fresh environments, and what the documents say.
newcomer: .venv/.test
	$(BIN)/python -m tests.newcomer $(PAGES)

# The suite against the installed wheel: a copy of all files but the library, so that no import finds the checkout.
test-wheel:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (set PYTHON=/path/to/python)"; exit 1; }
	rm -rf .cache/wheel && mkdir -p .cache/wheel/copy
	git ls-files -z | grep -zv '^openrouter_async/\|^pytest_openrouter_async' | xargs -0 tar -c | tar -x -C .cache/wheel/copy
	$(PYTHON) -m venv .cache/wheel/env
	.cache/wheel/env/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	.cache/wheel/env/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir .cache/wheel .
	.cache/wheel/env/bin/python -m pip install --quiet --disable-pip-version-check \
		--group test --group bench "$$(echo .cache/wheel/*.whl)[$(EXTRAS)]"
	cd .cache/wheel/copy && PYTHONDEVMODE=1 ../env/bin/python -m pytest \
		--numprocesses auto --dist worksteal --quiet $(PYTEST_ARGS)

test-all:
	bash .ci/matrix

stress: .venv/.test
	STRESS=1 $(BIN)/python -m pytest --timeout 0 -s -m stress $(PYTEST_ARGS)

# Ten minutes of exchanges, 200 at a time, a fault in one of ten.
soak: .venv/.test
	$(BIN)/python -m tests.soak $(SOAK_ARGS)

bench: .venv/.bench
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

mutants: .venv/.test .venv/.mutation
	$(BIN)/python .ci/mutants $(MUTANTS)

clean:
	rm -rf .venv mutants dist docs/_build .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
