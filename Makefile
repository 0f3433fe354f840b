# `make demo` and `make test` set themselves up from nothing; everything else is for those who work on Stallwatch.
BIN := .venv/bin

.PHONY: help setup demo unit test suites coverage check format proto docs site bench bench-offline bench-verdicts bench-faults bench-chaos bench-diagnosis \
  bench-flood bench-kill fuzz soak sbom audit clean

help: ## Lists the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: .venv/.ready ## Makes .venv and installs what tests and demo need

.venv/.ready: pyproject.toml constraints-dev.txt scripts/setup
	@scripts/setup

demo: setup ## Trains a small model through four acts and shows what Stallwatch says (ARGS="--keep" leaves the service up)
	@$(BIN)/stallwatch demo $(ARGS)

unit: setup ## The tests that need no service, no Ray and no browser (ARGS="-k straggler" goes to pytest)
	@scripts/test unit $(ARGS)

test: setup check ## The checks; unit, integration and deployment tests; a representative part of the long suites
	@scripts/test test $(ARGS)

suites: setup ## What `make test` leaves out: all of the suites of faults, chaos, reliability, fuzz and soak
	@scripts/test suites $(ARGS)

coverage: setup ## Branch coverage of agent and detector by the tests of `make test`, in build/coverage
	@$(BIN)/coverage erase
	@scripts/test test --cov --cov-append --cov-report= $(ARGS)
	@$(BIN)/coverage html --quiet && $(BIN)/coverage report --format=total

check: setup ## Format, lint, types, import contracts, wire
	@scripts/check

format: setup ## Formats code and protos
	@$(BIN)/ruff format --quiet && $(BIN)/ruff check --fix --quiet; PATH="$(BIN):$$PATH" buf format -w

proto: setup ## Generates the Python code of the wire
	@scripts/generate-proto

docs: setup ## Generates the reference pages and the rules for Prometheus
	@$(BIN)/python scripts/generate-docs
	@$(BIN)/python scripts/generate-deploy

site: setup ## Builds the documentation site into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo "build/site/index.html"

bench: setup ## What the agent costs, how much the analysis takes, and a scrape
	@OMP_NUM_THREADS=1 $(BIN)/python tests/bench/agent_overhead.py
	@$(BIN)/python tests/bench/analysis_throughput.py
	@$(BIN)/python tests/bench/analyze_csv.py
	@$(BIN)/python tests/bench/metrics_scrape.py

bench-offline: setup ## Trains for half an hour without a detector and measures what is kept and lost (ARGS="--speed 20" for a short one)
	@OMP_NUM_THREADS=1 $(BIN)/python tests/bench/offline.py $(ARGS)

bench-verdicts: setup ## Scores plateau verdicts on synthetic curves, and on real ones with CURVES=DIR
	@$(BIN)/python tests/bench/verdicts.py $(if $(CURVES),--curves $(CURVES)) --out build/verdicts $(ARGS)

bench-faults: setup ## Breaks real jobs in every way it knows and judges what is said; see tests/faults/README.md for ARGS
	@OMP_NUM_THREADS=1 $(BIN)/python tests/faults/run.py $(ARGS)

bench-chaos: setup ## Breaks detector, network and ranks under real jobs and judges what is left; see tests/chaos/README.md for ARGS
	@OMP_NUM_THREADS=1 $(BIN)/python tests/chaos/run.py $(ARGS)

bench-diagnosis: setup ## Trains small models with known causes of a stall in one process and scores what is said of them
	@OMP_NUM_THREADS=1 $(BIN)/python tests/bench/diagnosis.py $(ARGS)

bench-kill: setup ## Kills an analyzer 200 times, and a detector 10 times, at random moments: nothing may be lost
	@OMP_NUM_THREADS=1 $(BIN)/python tests/reliability/kill.py $(ARGS)
	@OMP_NUM_THREADS=1 $(BIN)/python tests/reliability/kill_service.py

bench-flood: setup ## What floods of one run do to the latency of another
	@$(BIN)/python tests/bench/flood.py $(ARGS)

fuzz: setup ## Fuzzes whatever takes bytes or text from outside, a million inputs a target; ARGS="--target wire --runs 20000" for less, --jobs 2 for two at a time
	@$(BIN)/python tests/fuzz/run.py $(ARGS)

soak: setup ## An hour of traffic and faults, then everything is counted; ARGS="--minutes 5" for less
	@$(BIN)/python tests/soak/run.py --json build/soak/report.json $(ARGS)

sbom: setup ## Lists what an installation consists of, as CycloneDX, in build/sbom
	@$(BIN)/python scripts/sbom

audit: setup ## Asks for known vulnerabilities of what is installed; ARGS="--all --strict"
	@$(BIN)/python scripts/audit $(ARGS)

clean: ## Removes the environment and everything generated outside git
	@git clean -fdXq
