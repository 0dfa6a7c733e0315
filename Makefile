# Two commands a newcomer needs: `make demo` and `make test`. Everything lands in this folder.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
LEROBOT := .venv-lerobot
ORACLE := .venv-oracle

.PHONY: help install dreams system-packages demo test check lerobot images compose-cli test-packages gpu slow oracle reliability clean

help:
	@echo "make install   environment in .venv with the simulator"
	@echo "make dreams    the same with torch and diffusers, for dreams"
	@echo "make demo      20 verified stack episodes with two cameras, as a LeRobot dataset with a report"
	@echo "make test      linters, types, architecture contracts, and every test"
	@echo "make images    container images, with Docker or, without an engine, with buildah"
	@echo "make gpu       the GPU backend's own tests; minutes"
	@echo "make slow      tests left out of make test for their length; minutes"
	@echo "make oracle    our targets beside those of Isaac Lab's own generator; fetches 5 GB the first time"
	@echo "make reliability   the long forms of the reliability tests; hours"

install: $(VENV)/installed

# The constraints are the images' exact versions: what is tested is what runs there, and pip need not search.
$(VENV)/installed: pyproject.toml docker/constraints.txt docker/system-packages.sh | system-packages
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c docker/constraints.txt -e '.[sim,dev]'
	touch $@

# Video models need torch; the simulation road does not.
dreams: $(VENV)/dreams-installed

$(VENV)/dreams-installed: $(VENV)/installed
	$(BIN)/pip install --quiet -c docker/constraints.txt -e '.[dreams]'
	touch $@

system-packages:
	bash docker/system-packages.sh

demo: install
	$(BIN)/factory generate stack --episodes 20 --seed 7 --preset fast --out datasets/stack

lerobot: $(LEROBOT)/installed

# The real consumer, apart from everything else because it conflicts with everything else.
$(LEROBOT)/installed: docker/lerobot-requirements.sh | system-packages
	$(PYTHON) -m venv $(LEROBOT)
	bash docker/lerobot-requirements.sh $(LEROBOT)
	touch $@

check: dreams
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# Hundreds of processes are started, none of which should compile our modules anew, even where Python may not keep them.
# Two at a time: fetching the one environment takes the network, the linters of the other take a core.
test:
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target check lerobot test-packages
	$(BIN)/python -m compileall -q factory sim_tasks dreams api workers tests
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# Builds every image, with Docker or, without an engine, with buildah.
images:
	bash docker/build-images.sh

# Docker Compose v2 for `config`, where there is no Docker: some tests of the compose file skip without it.
compose-cli: install
	bash docker/compose-cli.sh

# One after the other: two package managers at once would stand in each other's way.
test-packages: compose-cli
	bash docker/test-packages.sh

# Tests that take long and say little that the others do not.
slow: dreams lerobot
	$(BIN)/pytest -m slow -n 2 --dist loadfile

# The GPU backend in full, on a GPU or on Warp's CPU device; compiles kernels for minutes the first time.
gpu: install
	$(BIN)/pytest -m gpu

# Isaac Lab's own generator beside ours; an environment of its own, on Python 3.12. Results are in docs/oracle.md.
oracle: $(ORACLE)/installed
	$(ORACLE)/bin/python -m pytest -s -p no:cacheprovider -W ignore tests/test_oracle.py

$(ORACLE)/installed: docker/oracle-environment.sh
	bash docker/oracle-environment.sh $(ORACLE)
	touch $@

# The long forms of what `make test` does briefly; hours, on an idle machine. Results go to docs/benchmarks.
reliability: install
	$(BIN)/python -m tests.benchmarks.reliability all

clean:
	rm -rf $(VENV) $(LEROBOT) $(ORACLE) datasets
