"""A table of mistakes in options and configuration files, each with the very line that it gets."""

from pathlib import Path

import pytest
import yaml

from stepneg.chains import lines_of
from stepneg.cli import main
from stepneg.config_files import read_config
from stepneg.errors import InputError
from stepneg.mistakes import EXAMPLES, explain

SFT, DPO = "--config=configs/arithmetic/sft.yaml", "--config=configs/arithmetic/step_dpo.yaml"
CHAIN = "--config=configs/arithmetic/pipeline.yaml"
SWEEP = "--config=configs/arithmetic/scaling.yaml"
FIT_EXAMPLE = "for example: stepneg fit --config configs/arithmetic/sft.yaml"
EVALUATION = "trainer:\n  callbacks:\n  - class_path: stepneg.callbacks.evaluation.VLLMEvaluation\n    init_args:\n"


def line_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a command line ends in, with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stepneg: error: ")]
    return line.removeprefix("stepneg: error: ")


UNKNOWN = [
    (["--data.batchsize=3"], "there is no option --data.batchsize; did you mean --data.batch_size?"),
    (
        ["--data.init_args.batchsize=3"],
        "there is no option --data.init_args.batchsize; did you mean --data.init_args.batch_size?",
    ),
    (["--data.rollouts.sample=3"], "there is no option --data.rollouts.sample; did you mean --data.rollouts.samples?"),
    (["--data.sample=3"], "there is no option --data.sample; did you mean --data.rollouts.samples?"),
    (["--batch_size", "3"], "there is no option --batch_size; did you mean --data.batch_size?"),
    (["--data.problems.siz=3"], "there is no option --data.problems.siz; did you mean --data.problems.size?"),
    (["--trainer.max_epoch=3"], "there is no option --trainer.max_epoch; did you mean --trainer.max_epochs?"),
    (["--modle.path", "x"], "there is no option --modle.path; did you mean --model.path?"),
    (
        ["--model.objective=stepneg.objectives.DPO", "--model.objective.betta=1"],
        "there is no option --model.objective.betta; did you mean --model.objective.beta?",
    ),
    (
        ["--model.optimizer.learning_rate=1"],
        "there is no option --model.optimizer.learning_rate; known there: lr, betas, eps, weight_decay, amsgrad,"
        " maximize, foreach, capturable, differentiable, fused",
    ),
    (["stray"], f"'stray' is no option of fit; options begin with --; {FIT_EXAMPLE}"),
    (["--config"], f"--config needs a value; {FIT_EXAMPLE}"),
]
TYPES = [
    (
        ["--trainer.max_epochs=three"],
        "--trainer.max_epochs is 'three', not a whole number or null; write for example --trainer.max_epochs 8",
    ),
    (
        ["--data.batch_size", "three"],
        "--data.batch_size is 'three', not a whole number; write for example --data.batch_size 8",
    ),
    (
        ["--data.rollouts.samples=3.5"],
        "--data.rollouts.samples is '3.5', not a whole number; write for example --data.rollouts.samples 8",
    ),
    (
        ["--data.rollouts.steps=lines"],
        "--data.rollouts.steps is 'lines', not one of line, math, comma; did you mean line?",
    ),
    (
        ["--data.rollouts.pit_error=x"],
        "--data.rollouts.pit_error is 'x', not a number or null; write for example --data.rollouts.pit_error 0.5",
    ),
    (
        ["--model.optimizer.lr=fast"],
        "--model.optimizer.lr is 'fast', not a number; write for example --model.optimizer.lr 0.5",
    ),
    (["--model.warmup=a"], "--model.warmup is 'a', not a number; write for example --model.warmup 0.5"),
    (
        ["--model.schedule=cosin"],
        "--model.schedule is 'cosin', not one of constant_with_warmup, linear, cosine; did you mean cosine?",
    ),
    (
        ["--model.gradient_checkpointing=maybe"],
        "--model.gradient_checkpointing is 'maybe', not true or false; write for example"
        " --model.gradient_checkpointing true",
    ),
    (["--trainer.precision=bf17"], "--trainer.precision is 'bf17', not one of 64, 32, 16, bf16; did you mean bf16?"),
    (
        ["--trainer", "nowhere"],
        "--trainer: nowhere is no file of options; give --trainer.KEY VALUE, or an existing YAML file",
    ),
]
CLASSES = [
    (
        ["--model.objective=CrossEntrop"],
        "--model.objective: there is no class CrossEntrop; did you mean stepneg.objectives.CrossEntropy?",
    ),
    (
        ["--data.problems=stepneg.problems.arithmetic.Arithmetik"],
        "--data.problems: there is no class stepneg.problems.arithmetic.Arithmetik; did you mean"
        " stepneg.problems.arithmetic.Arithmetic?",
    ),
    (
        ["--data.problems=stepneg.objectives.DPO"],
        "--data.problems: stepneg.objectives.DPO is no ProblemSource; name one by class_path",
    ),
    (
        ["--data=stepneg.objectives.DPO"],
        "--data: stepneg.objectives.DPO is no LightningDataModule; name one by class_path",
    ),
    (["--data=3"], "--data: there is no class 3; name a class as package.module.Class"),
    (
        ["--model.optimizer=stepneg.objectives.DPO"],
        "--model.optimizer: stepneg.objectives.DPO is no Optimizer; name one by class_path",
    ),
    (
        ["--trainer.callbacks+=stepneg.callbacks.export.Exprt"],
        "--trainer.callbacks+: there is no class stepneg.callbacks.export.Exprt; did you mean"
        " stepneg.callbacks.export.Export?",
    ),
]


@pytest.mark.parametrize(("argv", "line"), UNKNOWN + TYPES + CLASSES, ids=lambda v: " ".join(v)[:50])
def test_a_mistake_on_the_command_line(argv, line, capsys):
    assert line_of(capsys, "fit", DPO, *argv) == line


FILES = [
    ("modle:\n  path: x\n", "line 1: there is no key modle; did you mean model?"),
    (
        "model:\n  gradient_chekpointing: true\n",
        "line 2: there is no key model.gradient_chekpointing; did you mean model.gradient_checkpointing?",
    ),
    (
        "data:\n  init_args:\n    batchsize: 3\n",
        "line 3: there is no key data.init_args.batchsize; did you mean data.init_args.batch_size?",
    ),
    ("data:\n  batchsize: 3\n", "line 2: there is no key data.batchsize; did you mean data.batch_size?"),
    (
        "data:\n  init_args:\n    rollouts:\n      sample: 3\n",
        "line 4: there is no key data.init_args.rollouts.sample; did you mean data.init_args.rollouts.samples?",
    ),
    (
        "data:\n  init_args:\n    rollouts:\n      samples: x\n",
        "line 4: data.init_args.rollouts.samples is 'x', not a whole number; write for example samples: 8",
    ),
    (
        "data:\n  init_args:\n    rollouts:\n      engine:\n        dtype: float12\n",
        "line 5: data.init_args.rollouts.engine.dtype is 'float12', not one of auto, float32, bfloat16, float16; did"
        " you mean float32?",
    ),
    (
        "data: {init_args: {problems: {init_args: {sise: 3}}}}\n",
        "line 1: there is no key data.init_args.problems.init_args.sise; did you mean"
        " data.init_args.problems.init_args.size?",
    ),
    (
        "data:\n  class_path: stepneg.data.pairs.Pairz\n",
        "line 1: data: there is no class stepneg.data.pairs.Pairz; did you mean stepneg.data.pairs.Pairs?",
    ),
    (
        "data:\n  class_path: stepneg.dta.pairs.Pairs\n",
        "line 1: data: there is no class stepneg.dta.pairs.Pairs; did you mean stepneg.data.pairs.Pairs?",
    ),
    (
        "model:\n  objective:\n    class_path: stepneg.objectives.DPO\n    init_args:\n      betta: 1\n",
        "line 5: there is no key model.objective.init_args.betta; did you mean model.objective.init_args.beta?",
    ),
    (
        "model:\n  optimizer:\n    class_path: torch.optim.AdamWW\n",
        "line 2: model.optimizer: there is no class torch.optim.AdamWW; did you mean torch.optim.AdamW?",
    ),
    (
        EVALUATION + "      engin: 3\n",
        "line 5: there is no key trainer.callbacks.init_args.engin; did you mean trainer.callbacks.init_args.engine?",
    ),
    (
        EVALUATION + "      engine:\n        class_path: tests.given.Given\n",
        "line 6: trainer.callbacks.init_args.engine.class_path: tests.given.Given cannot stand for VLLMEngine;"
        " leave class_path out, and give options of VLLMEngine",
    ),
    (
        EVALUATION + "      k: five\n",
        "line 5: trainer.callbacks.init_args.k is 'five', not a whole number; write for example k: 8",
    ),
    (
        "trainer:\n  callbacks:\n  - class_path: stepneg.callbacks.evaluation.VLLMEvaluatoin\n",
        "line 2: trainer.callbacks: there is no class stepneg.callbacks.evaluation.VLLMEvaluatoin; did you mean"
        " stepneg.callbacks.evaluation.VLLMEvaluation?",
    ),
    ("trainer:\n  callbacks: 3\n", "line 2: trainer.callbacks: 3 is no Callback; name one by class_path"),
]


@pytest.mark.parametrize(("text", "line"), FILES, ids=lambda v: v[-45:])
def test_a_mistake_in_a_file(text, line, tmp_path, capsys):
    (tmp_path / "more.yaml").write_text(text)
    assert line_of(capsys, "fit", DPO, f"--config={tmp_path}/more.yaml") == f"{tmp_path}/more.yaml, {line}"


MALFORMED = [
    (
        b"model: [1\n",
        ", line 2, column 1: not YAML (did not find expected ',' or ']', while parsing a flow sequence that begins in"
        " line 1); mend it there or in the line before",
    ),
    (
        b"trainer:\n  max_epochs: 2\nmodel\n",
        ", line 4, column 1: not YAML (could not find expected ':', while scanning a simple key that begins in line 3);"
        " mend it there or in the line before",
    ),
    (
        b"a: b: c\n",
        ", line 1, column 5: not YAML (mapping values are not allowed in this context); mend it there or in the line"
        " before",
    ),
    (b"model:\n\tpath: x\n", ", line 2, column 1: a tab before the key; indent YAML by spaces"),
    (b"model:\n  path: x\n  path: y\n", ", line 3: model.path stands already in line 2; keep one of the two"),
    (b"a: {b: [{c: 1, c: 2}]}\n", ", line 1: a.b.c stands already in line 1; keep one of the two"),
    (b"model:\n  path: \xff\xfe\n", ": not UTF-8 at byte 16; save the file as UTF-8"),
    (b"a: 1\x00\n", ": not YAML (control characters are not allowed at character 5); remove it"),
    (b"", ": holds no options; write some as `key: value`, or leave it out"),
    (b"# nothing\n", ": holds no options; write some as `key: value`, or leave it out"),
    (b"- a\n- b\n", ", line 1: a list where options belong; write `key: value`"),
    (b"\njust text\n", ", line 2: text where options belong; write `key: value`"),
    (
        b"a: !!python/object/apply:os.system ['ls']\n",
        ", line 1: could not determine a constructor for the tag !!python/object/apply:os.system; write plain values",
    ),
    (
        b"a: " + b"[" * 100_000,
        ", line 1, column 1003: not YAML (exceeded maximum nesting depth, while increasing flow level that begins in"
        " line 1); mend it there or in the line before",
    ),
    (b"a: " + b"[" * 990 + b"]" * 990, ": nested too deeply to be read; flatten it"),
]


@pytest.mark.parametrize(("text", "line"), MALFORMED, ids=lambda v: str(v[:30]))
def test_a_file_that_is_no_configuration(text, line, tmp_path, capsys):
    file = tmp_path / "more.yaml"
    file.write_bytes(text)
    assert line_of(capsys, "pipeline", CHAIN, f"--config={file}") == f"{file}{line}"


def test_a_file_that_cannot_be_read(tmp_path, capsys):
    line = line_of(capsys, "pipeline", f"--config={tmp_path}")
    assert line == f"--config: {tmp_path} is a folder; name a YAML file in it"


@pytest.mark.parametrize(
    ("given", "meant"),
    [("configs/arithmetic/sftt.yaml", "sft.yaml"), ("config/arithmetik/sft.yaml", "sft.yaml")],
)
def test_a_missing_file_gets_the_nearest(given, meant, capsys):
    line = line_of(capsys, "pipeline", "--config", given)
    assert line == f"{given}: no such configuration file; did you mean configs/arithmetic/{meant}?"


def test_an_alias_is_read_once_and_a_merge_is_no_duplicate(tmp_path):
    file = tmp_path / "aliases.yaml"
    file.write_text("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\nc: *a\n")
    assert [place.path for place in read_config(file)].count(("a", "x")) == 1
    bomb = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
    file.write_text(bomb)
    assert len(read_config(file)) == 31


OTHERS = [
    (["pipeline"], "pipeline needs --config, --root and --stages; for example: " + EXAMPLES["pipeline"]),
    (["pipeline", CHAIN, "--sed=[0]"], "there is no option --sed; did you mean --seeds?"),
    (["pipeline", CHAIN, "--seeds=a"], "--seeds is 'a', not a list; write for example --seeds [0, 1]"),
    (["pipeline", CHAIN, "--seeds=[a]"], "--seeds is 'a', not a whole number; write for example --seeds [0, 1]"),
    (["pipeline", CHAIN, "--seeds=[0,1,0]", "--dry_run"], "seeds: 0 stands there more than once; name each once"),
    (["pipeline", CHAIN, "--seeds=[0,-1]", "--dry_run"], "seeds: -1 is below 0; give whole numbers from 0"),
    (["estimate", CHAIN, "--seeds=[2,2]"], "seeds: 2 stands there more than once; name each once"),
    (["sweep", SWEEP, "--sizes=[8,8]", "--dry_run"], "sizes: 8 stands there more than once; name each once"),
    (["sweep", SWEEP, "--sizes=[8,0]", "--jobs"], "sizes: 0 is below 1; give whole numbers from 1"),
    (["estimate", CHAIN, "--sizes=[-8]"], "sizes: -8 is below 1; give whole numbers from 1"),
    (
        ["sweep", "--config=configs/arithmetic/scaling.yaml", "--size=[1]"],
        "there is no option --size; did you mean --sizes?",
    ),
    (["estimate", CHAIN, "--stepz=3"], "there is no option --stepz; did you mean --steps?"),
    (["fit"], f"fit needs --model.objective and --data; {FIT_EXAMPLE}"),
    (
        ["fit", "--model.objective=CrossEntropy", "--data=stepneg.data.pairs.Pairs"],
        "data.policy, data.problems: missing; give it in the file, or as --data.policy VALUE",
    ),
    (["grade", "x"], "grade needs --dataset and --output; for example: " + EXAMPLES["grade"]),
    (["grade", "--datset=gsm8k"], "there is no option --datset; did you mean --dataset?"),
    (
        ["grade", "x", "--dataset=gsm9k", "--output=y"],
        "--dataset is 'gsm9k', not one of gsm8k, math, number, text; did you mean gsm8k?",
    ),
    (
        ["grade", "x", "--dataset=gsm8k", "--output=y", "--marks=[box]"],
        "--marks is 'box', not one of hashes, boxed, stated, last_number, whole; did you mean boxed?",
    ),
    (
        ["pipeline", SFT, "--dry_run"],
        "configs/arithmetic/sft.yaml: is a file for `stepneg fit`, none for pipeline; for example: "
        + EXAMPLES["pipeline"],
    ),
    (
        ["evaluate", "x", DPO],
        "configs/arithmetic/step_dpo.yaml: is a file for `stepneg fit`, none for evaluate; for example: "
        + EXAMPLES["evaluate"],
    ),
    (
        ["fit", CHAIN],
        f"configs/arithmetic/pipeline.yaml: is a file for `stepneg pipeline`, none for fit; {FIT_EXAMPLE}",
    ),
    (
        ["pipeline", SWEEP],
        "configs/arithmetic/scaling.yaml: is a file for `stepneg sweep`, none for pipeline; for example: "
        + EXAMPLES["pipeline"],
    ),
    (["fit", SWEEP], f"configs/arithmetic/scaling.yaml: is a file for `stepneg sweep`, none for fit; {FIT_EXAMPLE}"),
    (
        ["grade", "x", "--dataset=gsm8k", "--output=y", "--marks", "boxed"],
        "--marks is 'boxed', not a list or null; write for example --marks [hashes,boxed]",
    ),
    (
        ["grade", "x", "--dataset=gsm8k", "--output=y", "--marks=[zzz]"],
        "--marks is 'zzz', not one of hashes, boxed, stated, last_number, whole; write for example --marks"
        " [hashes,boxed]",
    ),
    (
        ["memory", "x", "--machines", "1x8"],
        "--machines is '1x8', not a list; write for example --machines [1x1,1x8,4x8]",
    ),
    (["memory", "x", "--machines=[8]"], "--machines is '8', not text; write for example --machines [1x1,1x8,4x8]"),
    (["pipeline", CHAIN, "--order", "sft"], "--order is 'sft', not a list; write for example --order [text]"),
    (["evaluate"], "evaluate needs <policy> and --problems; for example: " + EXAMPLES["evaluate"]),
    (["evaluate", "x", "--problems=gsm8k", "--limt=3"], "there is no option --limt; did you mean --limit?"),
    (["report"], "report needs <root>; for example: stepneg report runs/arithmetic"),
    (["compare", "a"], "compare needs <second>; for example: " + EXAMPLES["compare"]),
    (["memory", "x", "--gpu=3"], "there is no option --gpu; did you mean --gpu_gb?"),
    (["init", "--layerz=3"], "there is no option --layerz; did you mean --layers?"),
    (["theorem", "--steps=many"], "--steps is 'many', not a whole number; write for example --steps 8"),
]


@pytest.mark.parametrize(("argv", "line"), OTHERS, ids=lambda v: " ".join(v)[:60])
def test_a_mistake_in_another_verb(argv, line, capsys):
    assert line_of(capsys, *argv) == line


def test_a_key_is_never_suggested_for_itself(tmp_path, capsys):
    """A chain's file in which options of a fit stand, too."""
    more = tmp_path / "more.yaml"
    more.write_text("seeds: [1]\ndata:\n  class_path: stepneg.data.pairs.Pairs\n  init_args: {batch_size: 8}\n")
    line = line_of(capsys, "pipeline", CHAIN, f"--config={more}", "--dry_run")
    assert line == f"{more}, line 4: there is no key data.init_args; known there: listed by: stepneg pipeline --help"


@pytest.mark.parametrize("more", [[], ["--dry_run"], ["--jobs"]])
def test_a_stage_is_checked_before_the_chain_begins(more, tmp_path, capsys):
    chain = tmp_path / "chain.yaml"
    shipped = Path("configs/arithmetic/sft.yaml").resolve()
    chain.write_text(
        f"root: {tmp_path}/run\nstages:\n- name: good\n  config: [{shipped}]\n- name: bad\n  config: [{shipped}]\n"
        "  args:\n    trainer.max_epochs: 2\n    data.batchsize: 3\n"
    )
    line = f"stage bad, fit: {chain}, line 9: there is no option --data.batchsize; did you mean --data.batch_size?"
    assert line_of(capsys, "pipeline", f"--config={chain}", *more) == line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [("--trainer.strategy=fsdpp", "invalid strategy name"), ("--trainer.max_time=soon", "DD:HH:MM:SS")],
)
def test_what_the_trainer_refuses_is_one_line(option, said, tmp_path, capsys):
    line = line_of(capsys, "fit", SFT, f"--trainer.default_root_dir={tmp_path}", option)
    assert line.startswith("trainer: ")
    assert said in line
    assert line.endswith("; mend the options trainer.*")


def test_a_message_of_no_known_kind_is_passed_on():
    import jsonargparse

    parser = jsonargparse.ArgumentParser(prog="stepneg fit")
    assert explain("something\n  new", parser, ["fit"], [], {}) == "something new"


@pytest.mark.parametrize("verb", EXAMPLES)
def test_the_examples_name_files_that_are_shipped(verb):
    words = EXAMPLES[verb].split()
    assert words[:2] == ["stepneg", verb]
    assert all(Path(word).is_file() for word in words if word.startswith("configs/"))


def test_the_short_help_of_fit(capsys):
    main(["fit", "--help"])
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0].startswith("usage: stepneg fit --config FILE")
    assert len(lines) < 150
    assert max(map(len, lines)) <= 120
    for said in ("--help all", "--data.help stepneg.data.pairs.Pairs", "--model.warmup X [0.1]", "in tokens", "in GiB"):
        assert said in text
    assert "required; HF folder" in text


def test_the_whole_help_and_that_of_a_class(capsys):
    for argv in (["fit", "--help", "all"], ["fit", "--data.help", "stepneg.data.pairs.Pairs"]):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 0
        assert ("--trainer.profiler" if "all" in argv else "--data.max_pairs") in capsys.readouterr().out


def test_a_line_is_short_though_the_value_is_long(capsys):
    line = line_of(capsys, "fit", SFT, f"--model.warmup={'x' * 5000}")
    assert line == f"--model.warmup is '{'x' * 77}...', not a number; write for example --model.warmup 0.5"


def test_an_error_of_the_reader_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such configuration file"):
        read_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("sort", [False, True], ids=["name first", "args first"])
def test_lines_of_a_stages_options_in_whichever_order_its_keys_are(tmp_path, sort):
    stages = [{"name": n, "config": ["a.yaml"], "args": {f"x.{n}": 1}} for n in "ab"]
    file = tmp_path / "chain.yaml"
    file.write_text(yaml.safe_dump({"root": "r", "stages": stages, "args": {"x.every": 2}}, sort_keys=sort))
    text = file.read_text().splitlines()
    for name in "ab":
        lines = lines_of(["--config", str(file)], name)
        for option in (name, "every"):
            (number,) = (i for i, line in enumerate(text, 1) if f"x.{option}:" in line)
            assert lines[f"--x.{option}"] == f"{file}, line {number}"
        assert f"--x.{'ab'.replace(name, '')}" not in lines
