# `make run` sets up and rehearses the flagship failure; `make test` sets up and tests everything. `make help` lists the rest.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup compiled components run test test-long lint fmt lock bench bench-reports gate fidelity claims-live gate-twenty train drill drill-long drill-table docs pictures clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not on the PATH; install Python 3.11 or say PYTHON=..." >&2; exit 2; }
	@echo "Setting up $(VENV) (once, one to three minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $(READY)

setup: $(READY) ## only the virtual environment: leaves .venv/bin/ollamamax

compiled: $(READY) ## compile the hot modules of the simulator and the gateway (into ~/.cache/ollamamax; again when they change)
	@$(BIN)/python -c "from twin.compiled import SIMULATOR; SIMULATOR.make()"
	@$(BIN)/python -c "from live.compiled import GATEWAY; GATEWAY.make()"

components: $(READY) ## find or build the real Ollama and Toxiproxy (into ~/.cache/ollamamax)
	@$(BIN)/python -m live.rig.components

run: compiled ## set up, then rehearse the flagship failure in the twin and write its page
	@$(BIN)/ollamamax run scenarios/node-crash.yaml --out runs

test: compiled components lint ## set up, then all tests but the long ones, with the real components
	@$(BIN)/python -m pytest -m "not long" --ignore tests/live --numprocesses 2
	@$(BIN)/python -m pytest -m "not long" tests/live

test-long: compiled components ## the tests that take minutes
	@$(BIN)/python -m pytest -m long

lint: $(READY) ## ruff, mypy strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

fmt: $(READY) ## put the code into its form
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: compiled ## speed of the simulator beside a plain event loop in the same run
	@$(BIN)/ollamamax bench

train: compiled ## train the shipped predictor anew (minutes; the same worlds give the same file)
	@$(BIN)/ollamamax train --out twin/learn/models/default.json

gate: compiled ## hold the figures of gate.yaml against the committed baseline (a minute)
	@$(BIN)/ollamamax gate

gate-twenty: compiled ## twenty gates on other seeds with nothing changed: none may raise an alarm
	@mkdir -p build
	@for round in $$(seq 1 20); do $(BIN)/ollamamax gate --seed $$((round * 1000)) > build/gate-twenty.txt 2>&1 \
		|| { cat build/gate-twenty.txt; echo "round $$round raised an alarm"; exit 1; }; echo "round $$round of 20: no alarm"; done

fidelity: compiled components ## calibrate on real Ollama nodes, and hold the twin against them (50 minutes; goes on where it was broken off)
	@$(BIN)/ollamamax fidelity scenarios/fidelity.yaml --all --resume runs/fidelity --markdown docs/fidelity-measured.md

claims-live: compiled components ## promise 2 on real Ollama nodes (27 minutes; goes on where it was broken off)
	@mkdir -p runs/claims-live
	@$(BIN)/ollamamax claims --world live --nodes real --only 2 --resume runs/claims-live --markdown docs/claims-live-measured.md

drill: $(READY) components ## drills at random on four real Ollama nodes for five minutes, and a look for leaks
	@$(BIN)/python -m live.rig.random_drills --minutes 5

drill-long: $(READY) components ## the same for an hour
	@$(BIN)/python -m live.rig.random_drills --minutes 60

drill-table: $(READY) components ## each drill five times on four real Ollama nodes (75 minutes; goes on where it was broken off)
	@$(BIN)/python -m live.rig.drill_table --out runs/drill-table --markdown docs/drills-measured.md

docs: $(READY) ## the reference page, made from the tables in the code
	@$(BIN)/python -m twin.scenario.reference > docs/reference.md

pictures: $(READY) ## the README's pictures: pages of the flagship in headless Chromium
	@command -v chromium >/dev/null || { echo "make: chromium is not on the PATH; apt-get install chromium" >&2; exit 2; }
	@rm -rf build/pictures
	@$(BIN)/ollamamax run scenarios/node-crash.yaml --set faults.0.target=node-0 --out build/pictures/run >/dev/null
	@$(BIN)/ollamamax compare scenarios/node-crash.yaml --vary policy.preset=none,reactive,default --replications 20 \
		--out build/pictures/study >/dev/null
	@$(BIN)/python -m tests.reports.pictures $$(ls -d build/pictures/run/node-crash-twin-*)/page.html build/pictures/study
	@ls -l docs/images

bench-reports: compiled ## how long a run of a million requests takes to open (makes the run first: a minute or two)
	@rm -rf build/million
	@$(BIN)/ollamamax run scenarios/crash-renewal.yaml --replications 1 --set cluster.nodes=15 \
		--set cluster.models.llama3.1:8b.replicas=12 --set workload.arrivals.rate_rps=20 --set workload.duration_s=50000 \
		--set record.journal=false --set record.telemetry_period_s=5 --out build/million >/dev/null || true
	@$(BIN)/ollamamax report --time build/million/*/seed-1

lock: ## work out requirements.lock anew from requirements.in (needs uv)
	@uv pip compile --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --upgrade requirements.in -o requirements.lock

clean: ## remove the virtual environment and what was run
	@rm -rf $(VENV) runs build *.egg-info
