"""A short calibration: what each job of a chain needs, measured on a few problems and a few training steps.

A small fit of the chain's first stage gives the speed of training and a policy that stands in for those that the chain
will make. With it, and with policies that are there, the data and the evaluation of each stage are made of a few
problems, by the code that will make them of all. Nothing is written outside the folder that it is given.
"""

import math
import time
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jsonargparse
import lightning as L
import torch

from stepneg.costs import FORWARD, Cost, Schedule, Shape, computed_tokens, fit_of, trained_tokens, training_flops
from stepneg.data.prepared import Prepared, read_built, write_built
from stepneg.data.rows import encode_prompt
from stepneg.errors import InputError
from stepneg.fingerprint import fingerprint
from stepneg.jobs import Job
from stepneg.metered import Few, Meter, Other, Sample, shape_of, size_of, spread
from stepneg.pipeline import draw_options
from stepneg.policy_folder import load_tokenizer
from stepneg.resolved import Resolver, evaluation_of, resolver, start_of
from stepneg.sampling.vllm_engine import VLLMEngine
from stepneg.timing import SECONDS
from stepneg.training import StepnegCLI, cli, launching

EVALUATED = 4  # problems of a calibrated evaluation for each one of calibrated data: the engine shall be busy


class Unknown(Exception):
    """Why a run's cost cannot be told."""


@dataclass(frozen=True)
class Trained:
    """What the small fit measured.

    Attributes:
        start: the policy that it started from.
        policy: what it made.
        trainer: that made it.
        tokens_per_second: computed in training.
        overhead: seconds of a fit in which it neither trained, nor sampled, nor graded.
        shape: of the model.
        checkpoint_bytes: of its checkpoint.
        policy_bytes: of the exported policy.
        steps: of the optimiser.
    """

    start: Path
    policy: Path
    trainer: L.Trainer
    tokens_per_second: float
    overhead: float
    shape: Shape
    checkpoint_bytes: int
    policy_bytes: int
    steps: int


def named_devices(trainer: jsonargparse.Namespace) -> list[int] | None:
    """The devices that are called by their numbers, as ``[6,7]`` or ``6,7``; None where so many are asked for."""
    devices = trainer.devices
    if isinstance(devices, str) and "," in devices:
        devices = [word for word in devices.split(",") if word.strip()]
    return [int(device) for device in devices] if isinstance(devices, list) else None


def devices_of(trainer: jsonargparse.Namespace) -> int:
    """How many devices train, on all nodes."""
    named, devices = named_devices(trainer), trainer.devices
    if named is not None:
        devices = len(named)
    elif not str(devices).isdecimal() or not int(devices):  # auto, -1
        devices = 1 if trainer.accelerator == "cpu" else max(1, torch.cuda.device_count())
    return int(devices) * int(trainer.num_nodes)


def schedule_of(trainer: jsonargparse.Namespace, data: Prepared) -> Schedule:
    """How Lightning limits a fit with these options.

    Raises:
        Unknown: validation is not by epochs, or nothing but time limits the fit.
    """
    if trainer.check_val_every_n_epoch is None:
        raise Unknown("trainer.check_val_every_n_epoch is null; validations are estimated by epochs")
    epochs = trainer.max_epochs
    if epochs is None:  # Lightning's own default
        epochs = 1000 if trainer.max_steps == -1 and trainer.max_time is None else -1
    if epochs == trainer.max_steps == -1:
        raise Unknown("neither trainer.max_epochs nor trainer.max_steps limits it")
    validates = trainer.limit_val_batches != 0
    interval = trainer.val_check_interval
    return Schedule(
        data.batch_size,
        devices_of(trainer),
        trainer.accumulate_grad_batches,
        epochs,
        trainer.max_steps,
        trainer.check_val_every_n_epoch if validates else None,
        1.0 if interval is None else interval,
    )


@dataclass
class Calibration:
    """Measures what the jobs of a chain need, each thing once.

    Args:
        jobs: the chain's.
        problems: of a stage's data that are made.
        steps: of the small fit.
        home: temporary folder.
    """

    jobs: list[Job]
    problems: int
    steps: int
    home: Path
    meters: dict[VLLMEngine, Meter] = field(init=False, default_factory=dict)
    resolved: dict[tuple[int | None, int], jsonargparse.Namespace] = field(init=False, default_factory=dict)
    samples: dict[str, Sample] = field(init=False, default_factory=dict)
    counts: dict[int, int] = field(init=False, default_factory=dict)
    passes: dict[int, float] = field(init=False, default_factory=dict)

    @cached_property
    def resolver(self) -> Resolver:
        """The parser of fits and tests."""
        return resolver(next(job.argv for job in self.jobs if job.verb in ("fit", "test")))

    def options(self, job: Job) -> jsonargparse.Namespace:
        """The options of a job; the cells of one size, and fit and test, are alike and share them."""
        key = (job.cell.size, id(job.stage))
        if key not in self.resolved:
            self.resolved[key] = self.resolver.resolve(job.argv)
        return self.resolved[key]

    @cached_property
    def trained(self) -> Trained:
        """A small fit of the first stage that can be fitted, through the command line as the chain's own.

        Raises:
            InputError: no stage can.
        """
        fits = [job for verb in ("fit", "test") for job in self.jobs if job.verb == verb]
        lacks = [(job, lacking(self.options(job))) for job in fits if isinstance(self.options(job).data, Prepared)]
        ready = [job for job, missing in lacks if not missing]
        if not ready:
            first = next((str(missing[0]) for _, missing in lacks), "what the chain fits")
            raise InputError(
                f"estimate: {first} is no policy folder yet, so that nothing can be calibrated; make it first, "
                "or name one that is there (model.path, data.policy)"
            )
        root, few, store, metered = self.home / "fit", self.problems, self.home / "fit-samples", self.meter

        class Small(StepnegCLI):
            """On a few problems, with a store of its own."""

            def before_fit(self) -> None:
                if hasattr(data := self.datamodule, "rollouts"):
                    data.problems = Few(data.problems, few)
                    data.rollouts = replace(data.rollouts, engine=metered(data.rollouts.engine), store=store)

        own = {"trainer.default_root_dir": root, "trainer.max_steps": self.steps, "trainer.limit_val_batches": 0}
        own |= {"trainer.num_sanity_val_steps": 0, "trainer.enable_progress_bar": "false"}
        named = named_devices(self.options(ready[0]).trainer)
        own |= {"trainer.devices": named[:1] if named else 1, "trainer.num_nodes": 1}
        argv = ["fit", *draw_options(ready[0].argv), *(f"--{key}={value}" for key, value in own.items())]
        before, started = SECONDS.copy(), time.monotonic()
        with launching(argv):
            done = cli(argv, Small)
        total = time.monotonic() - started
        data, trainer = done.datamodule, done.trainer
        assert isinstance(data, Prepared)
        assert data.built is not None
        spent = next(c for c in trainer.callbacks if type(c).__name__ == "Throughput")  # type: ignore[attr-defined]
        examples = data.built.examples
        computed = spent.tokens * computed_tokens(examples, data.packed) / trained_tokens(examples)
        training = spent.spent["training"]
        elsewhere = sum(SECONDS[what] - before[what] for what in SECONDS)
        start = start_of(self.options(ready[0]))
        return Trained(
            start,
            root / "last",
            trainer,
            computed / max(training, 1e-9),
            max(0.0, total - training - elsewhere),
            shape_of(start),
            size_of(root / "checkpoints"),
            size_of(root / "last"),
            trainer.global_step,
        )

    def stand_in(self, policy: Path) -> Path:
        """The policy that is sampled in the place of one.

        Itself if the chain does not make it; else one that a done fit of the chain made, or the small fit's.

        Raises:
            Unknown: it is not there, and the chain does not make it.
        """
        if not any(policy.is_relative_to(job.cell.home) for job in self.jobs):
            if not (policy / "config.json").is_file():
                raise Unknown(f"{policy} is no policy folder")
            return policy
        done = [job.home / "last" for job in self.jobs if job.verb == "fit" and job.done]
        return done[0] if done else self.trained.policy

    def meter(self, engine: VLLMEngine) -> Meter:
        """The meter of an engine's options."""
        return self.meters.setdefault(engine, Meter(engine))

    def load_another(self) -> None:
        """Have each engine that served one policy only load another, to see how long that takes."""
        for meter in self.meters.values():
            if len(meter.loads) == 1:
                meter.load(next(p for p in (self.trained.policy, self.trained.start) if p != meter.policy))

    def count(self, source: Any) -> int:
        """How many problems a source (or a data module) holds."""
        if id(source) not in self.counts:
            problems = source.load_problems() if isinstance(source, Prepared) else source.load()
            self.counts[id(source)] = len(problems)
        return self.counts[id(source)]

    def data(self, job: Job) -> Sample:
        """The training data of a few problems."""
        given = self.options(job).data
        rollouts = getattr(given, "rollouts", None)
        key = fingerprint(job.stage.name, type(given).__name__, given.settings(), given.template)
        wanted = min(self.problems, self.count(given))
        if key in self.samples and self.samples[key].problems >= wanted:
            return self.samples[key]
        data = copy(given)
        data.policy = self.stand_in(given.policy)
        data.trainer = self.trained.trainer
        problems = spread(given.load_problems(), self.problems)
        store, meter = self.home / "samples" / fingerprint(str(given.policy)), None
        if rollouts is not None:
            meter = self.meter(rollouts.engine)
            data.rollouts = replace(rollouts, engine=meter, store=store)
        first, bytes_before = len(meter.draws) if meter else 0, size_of(store)
        with Other() as other:
            built = data.build(problems, load_tokenizer(data.policy, data.template))
        file = self.home / "data" / key / "examples.jsonl"
        write_built(built, file, problems)
        tokens = float(built.facts.get("sampled_tokens", 0))
        draws = meter.draws[first:] if meter else []
        found = Sample(
            len(problems),
            tokens,
            draws,
            other.seconds,
            size_of(store) - bytes_before,
            size_of(file.parent),
            read_built(file),
        )
        self.samples[key] = found
        return found

    def evaluation(self, policy: Path, job: Job, stage: str) -> Sample:
        """The evaluation of a few problems."""
        callback = evaluation_of(self.options(job).trainer)
        assert callback is not None
        source, template = callback.sources[stage], self.options(job).data.template
        assert source is not None
        stand_in = self.stand_in(policy)
        free = callback.kl_samples if stage == "validation" else 0
        settings = (callback.engine, callback.k, callback.sampled, callback.form, template, free)
        key = fingerprint("evaluation", str(stand_in), settings, type(source).__name__)
        if key in self.samples:
            return self.samples[key]
        problems = spread(source.load(), EVALUATED * self.problems)
        small: Any = copy(callback)
        meter = self.meter(callback.engine)
        small.engine, small.store = meter, self.home / "samples" / key
        small.kl_samples = math.ceil(free * len(problems) / self.count(source))
        first, tokenizer = len(meter.draws), load_tokenizer(stand_in, template)
        with Other() as other:
            small.evaluate(stand_in, tokenizer, problems, template).write(self.home / "evaluation" / key / "test.json")
            prompts = [encode_prompt(tokenizer, template, problem.question) for problem in problems]
            drawn = small.draw_freely(stand_in, prompts) if free else []
        scored = FORWARD * sum(len(row) for row, _ in drawn) / self.trained.tokens_per_second
        written = size_of(self.home / "evaluation" / key)
        found = Sample(len(problems), 0.0, meter.draws[first:], other.seconds + scored, size_of(small.store), written)
        return self.samples.setdefault(key, found)

    def measure(self, job: Job) -> None:
        """All that :meth:`cost` needs of a job.

        Raises:
            Unknown: what it needs is not there.
        """
        if job.verb not in ("fit", "test"):
            raise Unknown(f"`{job.verb}` is not estimated")
        given = self.options(job)
        if not isinstance(given.data, Prepared):
            raise Unknown(f"{type(given.data).__name__} is not estimated")
        callback = evaluation_of(given.trainer)
        try:
            self.held_out(job)
            if job.verb == "fit":
                self.data(job)
                self.count(given.data)
                if callback and callback.sources["validation"] and self.fit(job)[1].validations:
                    self.evaluation(job.home / "last", job, "validation")
            elif callback and callback.sources["test"]:
                self.evaluation(tested(job, given), job, "test")
        except (InputError, OSError) as error:
            raise Unknown(" ".join(str(error).split())) from error

    def speed(self, job: Job) -> float:
        """Tokens a second that all devices of a job together train on, each as fast as the one that was measured."""
        given = self.options(job)
        return self.trained.tokens_per_second * devices_of(given.trainer)

    def fit(self, job: Job) -> tuple[int, Any]:
        """Examples and course of a fit."""
        given, sample = self.options(job), self.data(job)
        assert sample.built is not None
        rows = round(len(sample.built.examples) * self.count(given.data) / sample.problems)
        return rows, fit_of(rows, schedule_of(given.trainer, given.data))

    def held_out(self, job: Job) -> float:
        """Seconds of one pass over the held-out solutions."""
        data = self.options(job).data
        if data.validation is None or self.options(job).trainer.limit_val_batches == 0:
            return 0.0
        if id(data) not in self.passes:
            other = copy(data)
            other.policy = self.trained.policy
            few = spread(data.validation.load(), self.problems)
            examples = other.teacher_examples(few, load_tokenizer(other.policy, other.template))
            tokens = trained_tokens(examples) / max(len(few), 1) * self.count(data.validation)
            self.passes[id(data)] = FORWARD * tokens / self.speed(job)
        return self.passes[id(data)]

    def cost(self, job: Job, served: dict[VLLMEngine, str]) -> Cost:
        """What a job costs that :meth:`measure` has seen.

        Args:
            job: a fit or a test.
            served: which policy an engine serves; an entry is changed as the job goes on.
        """
        given = self.options(job)
        callback = evaluation_of(given.trainer)
        total = Cost(seconds=self.trained.overhead)

        def drawn(engine: VLLMEngine, policy: str, sample: Sample, problems: int) -> Cost:
            meter = self.meter(engine)
            load = 0.0
            if sample.draws and served.get(engine) != policy:
                load = meter.reload if engine in served else meter.start
                served[engine] = policy
            return sample.cost(problems, meter.speed()) + Cost(seconds=load)

        if job.verb == "test":
            total += Cost(seconds=self.held_out(job))
            if callback and (source := callback.sources["test"]):
                policy = tested(job, given)
                sample = self.evaluation(policy, job, "test")
                total += drawn(callback.engine, str(policy), sample, self.count(source))
            return total
        sample, problems = self.data(job), self.count(given.data)
        assert sample.built is not None
        if rollouts := getattr(given.data, "rollouts", None):
            total += drawn(rollouts.engine, str(given.data.policy), sample, problems)
        else:
            total += sample.cost(problems, None)
        examples, (_, fit) = sample.built.examples, self.fit(job)
        share = fit.examples / max(len(examples), 1)
        tokens = share * trained_tokens(examples)
        length = trained_tokens(examples) / max(sum(map(len, examples)), 1)
        seconds = share * computed_tokens(examples, given.data.packed) / self.speed(job)
        total += Cost(
            trained_tokens=tokens,
            flops=training_flops(self.trained.shape, tokens, length),
            run_bytes=self.trained.checkpoint_bytes + self.trained.policy_bytes,
            seconds=seconds + fit.validations * self.held_out(job) if fit.validations else seconds,
        )
        if callback and fit.validations and (source := callback.sources["validation"]):
            found = self.evaluation(job.home / "last", job, "validation")
            for number in range(1, fit.validations + 1):
                last = number == fit.validations and fit.ends_validated
                policy_now = str(job.home / "last") if last else f"{job.home}, validation {number}"
                total += drawn(callback.engine, policy_now, found, self.count(source))
        return total


def tested(job: Job, given: jsonargparse.Namespace) -> Path:
    """The policy that a test evaluates."""
    if "fit" in job.stage.verbs:
        return job.home / "last"
    return start_of(given)


def lacking(given: jsonargparse.Namespace) -> list[Path]:
    """The policies of a fit that are not there."""
    return [path for path in (start_of(given), given.data.policy) if not (path / "config.json").is_file()]
