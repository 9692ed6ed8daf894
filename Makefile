# Every target makes its own .venv the first time, and again when the requirements change.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEV := .venv/.ready-dev
EDGE := .venv-edge/.ready
.DEFAULT_GOAL := help
# Some containers set it. The tests start hundreds of programs, and each would compile all of this project again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run edge test slow coverage fuzz check format bench clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

NEW_ENOUGH := $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'

$(READY): requirements.txt
	@$(NEW_ENOUGH)
	@$(PYTHON) utils/install.py .venv requirements.txt
	@touch $@

$(EDGE): requirements-edge.txt
	@$(NEW_ENOUGH)
	@$(PYTHON) utils/install.py .venv-edge requirements-edge.txt
	@touch $@

$(DEV): $(READY) requirements-dev.txt
	@$(PYTHON) utils/install.py .venv requirements-dev.txt
	@touch $@

run: $(READY) ## a trained network on a photograph, split between an emulated slow device and a cloud here; then AlexNet
	$(BIN)/python edge_api.py -t efficientnet_lite0 --emulate-cpu 0.07 --emulate-link 1.5mbit,20ms --accuracy-budget 1% --repeat 5 --verify --compare
	$(BIN)/python edge_api.py -t alex_net --emulate-cpu 0.05 --emulate-link 5mbit,20ms --repeat 5 --verify --compare
	@echo
	@echo "To watch requests on a live page (docs/page.md), run this and open the address that it prints:"
	@echo "  $(BIN)/python edge_api.py -t efficientnet_lite0 --emulate-cpu 0.07 --emulate-link 1.5mbit,20ms --accuracy-budget 1% --repeat 500 --page 8080"

edge: $(EDGE) ## .venv-edge without torch, for a weak device: it runs bundles (docs/bundle.md)

# Tests that start programs compete for the cores. What fails among others has to pass alone, and is printed both times.
test: $(DEV) ## the tests, three at a time: one in three waits
	$(BIN)/python -m pytest -q -n 3 --dist worksteal --durations=10 || { [ $$? = 1 ] && \
	  echo "Again, one at a time: the tests that failed" && $(BIN)/python -m pytest -q --last-failed --last-failed-no-failures none; }

slow: $(DEV) ## the long tests too, ten times the random examples, every program started anew; half an hour
	THOROUGH=1 COLD=1 $(BIN)/python -m pytest -q -m ""

coverage: $(DEV) ## which branches the tests reach: 85 % of all, 100 % of what only decides; twice as long as test
	rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest -q -n 2 --dist worksteal
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --skip-covered --fail-under=85
	$(BIN)/python -m coverage report --include="$$($(BIN)/python -m tests.pure),utils/cpu_limit.py" --fail-under=100

fuzz: $(DEV) ## look for bytes that break the wire, a live cloud or the check of networks; about half an hour
	for target in prefix header messages payload coded learned chunk session; do $(BIN)/python -m tests.fuzz.long $$target || exit 1; done
	$(BIN)/python -m tests.fuzz.onnx_models --mutants 20000

check: $(DEV) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .typed/edgecloud tests benchmarks

format: $(DEV) ## put the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV) $(EDGE) ## all measurements; about three hours, tables go to benchmarks/results
	$(BIN)/python -m benchmarks.wire
	$(BIN)/python -m benchmarks.tls
	$(BIN)/python -m benchmarks.transports
	$(BIN)/python -m benchmarks.decision
	$(BIN)/python -m benchmarks.published
	$(BIN)/python -m benchmarks.choice
	$(BIN)/python -m benchmarks.gain
	$(BIN)/python deployment.py profile --role edge --threads 1 --budget 115s
	$(BIN)/python -m benchmarks.prediction
	$(BIN)/python -m benchmarks.tasks
	$(BIN)/python -m benchmarks.load
	$(BIN)/python -m benchmarks.codecs
	$(BIN)/python -m benchmarks.accuracy
	$(BIN)/python -m benchmarks.bytes
	$(BIN)/python -m benchmarks.dads
	$(BIN)/python deployment.py profile --role cloud --threads 2 --budget 115s
	$(BIN)/python deployment.py fit --role edge --threads 1
	$(BIN)/python deployment.py fit --role cloud --threads 2
	$(BIN)/python -m benchmarks.configurations
	$(BIN)/python -m benchmarks.faults
	$(BIN)/python -m benchmarks.phases
	$(BIN)/python -m benchmarks.hostile
	$(BIN)/python -m benchmarks.reconnecting
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.torch_free
	$(BIN)/python -m benchmarks.exports

clean: ## remove what make made
	rm -rf .venv .venv-edge .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*
