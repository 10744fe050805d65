# Everything a developer types. `make help` lists it.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
PY := .venv/bin/python
# What ruff and mypy look at, as far as it exists.
CODE = $(wildcard buckets replicas sidecar control_plane tests bench scripts)

.PHONY: help setup setup-dev run test compiled wheel test-compiled peers lint format protos bench models probe sim zookeeper lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv/.installed-run: requirements.lock pyproject.toml scripts/setup.sh
	@scripts/setup.sh run

.venv/.installed-dev: requirements-dev.lock pyproject.toml scripts/setup.sh
	@scripts/setup.sh dev

setup: .venv/.installed-run ## install what `make run` needs into .venv
	@:

.venv/node/node_modules/.package-lock.json: tests/clients_node/package-lock.json .venv/.installed-dev
	@scripts/install-node-clients.sh

setup-dev: .venv/.installed-dev .venv/node/node_modules/.package-lock.json ## the same with the tools and what the tests need
	@:

run: setup ## start a local cluster: make run ARGS="--load cities --for 10 --exit"
	@exec .venv/bin/dabba dev $(ARGS)

test: setup-dev peers ## run every test: make test ARGS="tests/unit -k quorum"
	@$(PY) -m pytest $(ARGS)

compiled: setup-dev ## compile the hot modules: PYTHONPATH=build/compiled .venv/bin/dabba dev
	@scripts/compile.sh

wheel: compiled ## make dist/*.whl for this platform, with the hot modules compiled
	@mkdir -p dist && rm -f dist/*.whl && cp -v build/compiled/dist/*.whl dist

# What runs on the compiled modules: the wheel itself, units, the simulator, and the doors from outside.
COMPILED_TESTS = compiled unit/buckets unit/replicas unit/sidecar sim fuzz \
	$(addprefix functional/test_,attacks_* grpc_* redis_against_* redis_door_* redis_generated.py redis_wire.py replica_link.py)
# Not on them: tests whose coordinator is a stand-in, since machine code takes one of the class that it was compiled with.
COMPILED_NOT = unit/sidecar/net/test_data_service.py unit/sidecar/net/test_grpc_rights.py unit/sidecar/net/test_pipeline_service.py \
	functional/test_grpc_engines.py

# The simulator's broken variants are left out: rules can not be taken out of machine code.
test-compiled: setup-dev peers compiled ## run the tests of the data path on them, and of the wheel
	@cd build/compiled && PYTHONPATH=$$PWD ../../$(PY) -m pytest $(addprefix tests/,$(COMPILED_TESTS)) \
		$(addprefix --ignore=tests/,$(COMPILED_NOT)) -k "not without_a_rule" $(ARGS)

peers: ## install the real servers and clients that the tests talk to (apt-get)
	@scripts/install-peers.sh

lint: setup-dev ## ruff, ruff format and mypy --strict
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy --strict $(CODE)

format: setup-dev ## let ruff mend and format the code
	@$(PY) -m ruff check --fix-only .
	@$(PY) -m ruff format .

protos: setup-dev ## generate the Python code of protos/**/*.proto
	@$(PY) scripts/generate_protos.py

bench: setup-dev peers ## run the benchmarks: make bench ARGS="doors --json doors.json"
	@exec $(PY) -m bench $(ARGS)

models: setup peers ## check the Spin models of docs/models: make models ARGS="--full --json models.json"
	@exec $(PY) scripts/run_models.py $(ARGS)

probe: setup-dev peers ## kill, pause, cut off and restart real processes; prints the table of faults
	@$(PY) -m pytest tests/probe $(ARGS)

sim: setup-dev ## the data path under seeded faults in virtual time: make sim ARGS="--broken all"
	@exec $(PY) -m tests.sim $(ARGS)

zookeeper: setup peers ## start a ZooKeeper in the foreground: make zookeeper PORT=2181
	@exec $(PY) scripts/zookeeper.py $(if $(PORT),--port $(PORT))

lock: ## renew the lock files from pyproject.toml (UPGRADE=1: newest versions)
	@scripts/lock.sh

clean: ## remove everything that was installed, built or cached here
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
