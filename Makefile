# Everything a newcomer needs is `make demo` and `make test`; both do all of their own set-up.
PY ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint bench docs clean

demo: .venv/.user
	$(BIN)/ostiary run plans/demo.yaml --store ostiary-store/demo
	$(BIN)/ostiary run plans/demo-images.yaml --store ostiary-store/demo
	$(BIN)/ostiary report --store ostiary-store/demo --output report.html

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses=8 --dist worksteal --durations=10

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: .venv/.dev
ifdef NAME
	$(BIN)/python benchmarks/$(subst -,_,$(NAME)).py
else
	@echo "make bench NAME=... with one of:"
	@for f in $(filter-out benchmarks/common.py,$(wildcard benchmarks/*.py)); do \
	  printf '  %-16s %s\n' "$$(basename $$f .py | tr _ -)" "$$(sed -n '1s/^"""//;1s/"*$$//;1p' $$f)"; done
endif

docs: .venv/.dev
	$(BIN)/python scripts/make_docs.py

# torch is pinned on the line as well: a constraint alone would not stop a build without it from being looked at
.venv/.user: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PY) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt "torch==2.13.0" -e ".[report]"
	touch $@

.venv/.dev: .venv/.user
	$(BIN)/pip install -q -c constraints.txt "torch==2.13.0" -e ".[dev]"
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
