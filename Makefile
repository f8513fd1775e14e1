# Everything that a person or CI does with this project, by the same names.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LABEL_STUDIO := .venvs/label-studio/.ready

# The longest part first.
PARTS := test-servers test-cli test-modules test-studio test-adapters test-faults-once \
  test-examples

.PHONY: setup redis-server serve demo test $(PARTS) test-faults test-images test-newest test-lowest e2e fuzz check format bench bench-learning clean

setup: $(READY) $(LABEL_STUDIO) redis-server ## install everything, pinned, into .venv and .venvs

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[torch,transformers,dev]'
	touch $@

# Label Studio pins other versions of what we use, so it lives in its own environment.
$(LABEL_STUDIO): tests/e2e/constraints-label-studio.txt $(READY)
	$(BIN)/python -m tests.e2e.label_studio install
	$(BIN)/python -m tests.e2e.label_studio template
	touch $@

# The tests start one of their own; it is no Python package.
REDIS := apt-get install -y redis-server
redis-server:
	@command -v redis-server >/dev/null || if ! command -v apt-get >/dev/null; then \
	  echo "redis-server is missing: install it, or where there is apt: $(REDIS)" >&2; exit 1; \
	elif [ "$$(id -u)" = 0 ]; then apt-get update -qq; $(REDIS); \
	elif sudo -n true 2>/dev/null; then sudo apt-get update -qq; sudo $(REDIS); \
	else echo "redis-server is missing, install it with: sudo $(REDIS)" >&2; exit 1; fi

serve: $(READY) ## serve examples/pytorch_ner on port 9090
	$(BIN)/lsml-bento start examples/pytorch_ner -p 9090

demo: $(READY) $(LABEL_STUDIO) ## annotate in a Label Studio, and see the example learn
	@$(BIN)/python -m tests.e2e.demo

# Most tests wait for servers and timers: four parts at a time keep two cores busy.
# What Python compiled is kept, since tests start hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE
test: setup ## every test, the end-to-end ones included; ends with the slowest of them
	rm -rf build/junit
	$(MAKE) --jobs=4 --keep-going --output-sync=target --no-print-directory $(PARTS); \
	  status=$$?; $(BIN)/python -m tests.slowest build/junit; exit $$status

# `-m` here takes the place of the one in pyproject.toml.
SHORT := not fuzz and not images
PYTEST = $(BIN)/pytest --junitxml=build/junit/$@.xml
test-modules: $(READY)
	$(PYTEST) tests $(patsubst %,--ignore=tests/%,adapters cli e2e faults)

test-adapters: $(READY)
	$(PYTEST) tests/adapters

test-cli: $(READY)
	$(PYTEST) tests/cli

test-servers: $(READY)
	$(PYTEST) tests/e2e -m '$(SHORT) and not studio'

test-studio: $(READY) $(LABEL_STUDIO)
	$(PYTEST) tests/e2e -m '$(SHORT) and studio'

test-faults-once: $(READY)
	$(PYTEST) tests/faults

test-examples: $(READY)
	$(PYTEST) examples

e2e: setup ## only the tests with real servers
	$(BIN)/pytest -m e2e

ROUNDS ?= 10
RESULTS ?= .cache/faults.md
test-faults: setup ## kill -9 every process there is, ROUNDS times each
	mkdir -p .cache && rm -f .cache/faults.jsonl
	LSML_FAULT_ROUNDS=$(ROUNDS) LSML_FAULT_RECORD=.cache/faults.jsonl $(BIN)/pytest tests/faults
	$(BIN)/python -m tests.faults.results .cache/faults.jsonl > $(RESULTS)
	cat $(RESULTS)

# The wheel alone, with the newest and with the lowest versions that pyproject.toml
# allows, in a copy without the package. Tests that start servers, read the repository or
# need torch are left out.
test-newest: RESOLUTION = highest
test-lowest: RESOLUTION = lowest-direct
LEFT_OUT := cli deploy docs e2e faults images benchmarks typing test_architecture.py \
  scaffold/test_wheel.py test_torch.py model/test_render.py adapters/test_transformers_pipelines.py \
  adapters/test_transformers_pipelines_media.py
UV_INSTALL = $(BIN)/uv pip install --quiet --python .venvs/$*/bin/python
test-newest test-lowest: test-%: $(READY) redis-server
	rm -rf .venvs/$* build/$*
	$(BIN)/uv venv --quiet --python $(PYTHON) .venvs/$*
	$(UV_INSTALL) --resolution $(RESOLUTION) --requirement pyproject.toml
	$(UV_INSTALL) hypothesis psutil pytest pytest-timeout uv
	$(BIN)/uv build --quiet --wheel --out-dir build/$* .
	$(UV_INSTALL) --no-deps build/$*/*.whl
	cp -r bentos constraints.txt docs examples pyproject.toml tests build/$*/
	cd build/$* && ../../.venvs/$*/bin/python -m pytest tests \
	  $(patsubst %,--ignore=tests/%,$(LEFT_OUT))

# As root, with buildah and mmdebstrap; the tests say what is missing.
test-images: $(READY) ## build the images of a bento and of a new backend, and run them
	$(BIN)/pytest tests/images -m images --durations=15

fuzz: $(READY) ## 10,000 hostile bodies
	$(BIN)/pytest -m fuzz --timeout=1800

check: $(READY) ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## compare with LitServe and BentoML's batching; writes benchmarks/serving/results.md
	$(BIN)/python -m benchmarks.serving

bench-learning: $(READY) redis-server ## measure webhooks, swaps and lists; writes benchmarks/learning/results.md
	$(BIN)/python -m benchmarks.learning

clean:
	rm -rf $(VENV) .venvs .cache build
