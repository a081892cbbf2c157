"""The formulas of memory against what torch, vLLM and DeepSpeed make of the same models."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config

from benchmarks.memory import peaks, reading_peak
from stepneg import policy
from stepneg.architecture import Architecture, architecture
from stepneg.commands import run
from stepneg.errors import InputError
from stepneg.memory import (
    AUTOCAST,
    CHECKED,
    FLOAT32,
    GATHERED,
    LOGITS,
    MASTER,
    TRAINERS,
    TRUE,
    Precision,
    activations,
    ddp,
    fsdp2,
    largest_batch,
    reference,
    saved_by_layer,
    saved_by_norm,
    zero2,
    zero3,
    zero3_offload,
)
from stepneg.sharding import divide

MODELS = sorted(Path("configs/model").glob("*.json"))
PUBLISHED = {"deepseek_math_7b": 6.9e9, "llama2_7b": 6.7e9, "qwen2_5_math_7b": 7.6e9}  # as their makers say, rounded
SMALL = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3}
KINDS = [
    LlamaConfig(**SMALL, num_attention_heads=4),
    LlamaConfig(**SMALL, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, head_dim=32),
    LlamaConfig(**SMALL, num_attention_heads=4, attention_bias=True, mlp_bias=True),
    MistralConfig(**SMALL, num_attention_heads=4, num_key_value_heads=1),
    Qwen2Config(**SMALL, num_attention_heads=4, num_key_value_heads=2),
    Qwen2Config(**SMALL, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True),
]


def sizes_of(config: PreTrainedConfig, folder: Path) -> Architecture:
    config.save_pretrained(folder)
    return architecture(folder)


def on_meta(config: PreTrainedConfig):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def count(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize("file", MODELS, ids=lambda file: file.stem)
def test_the_real_architectures_have_the_parameters_that_are_told(file):
    sizes, model = architecture(file), on_meta(AutoConfig.from_pretrained(file))
    assert sizes.parameters == count(model.parameters())
    assert round(sizes.parameters, -8) == PUBLISHED[file.stem]
    assert [count(layer.parameters()) for layer in model.model.layers] == [sizes.layer] * sizes.layers
    # Shards are rows: all weights divide evenly among up to 256 GPUs, so that 1/N is what each holds.
    assert [parameter.shape[0] for parameter in model.parameters() if parameter.shape[0] % 256] == []


@pytest.fixture
def mesh():
    """Eight ranks that are not there; this process is the first."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    try:
        yield init_device_mesh("cpu", (8,))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("file", MODELS, ids=lambda file: file.stem)
def test_fsdp2_divides_the_real_architectures_layer_by_layer(file, mesh):
    sizes, model = architecture(file), on_meta(AutoConfig.from_pretrained(file))
    root = torch.nn.Sequential(model)  # in the place of the policy
    divide(root, model, mesh, torch.bfloat16)
    layers = list(model.model.layers)
    units = [module for module in root.modules() if isinstance(module, FSDPModule)]
    assert {id(unit) for unit in units} == {id(root), *map(id, layers)}
    assert len(layers) == sizes.layers
    parameters = list(root.parameters())
    assert all(isinstance(parameter, DTensor) for parameter in parameters)
    assert all(8 * parameter.to_local().shape[0] == parameter.shape[0] for parameter in parameters)
    assert 8 * count(parameter.to_local() for parameter in parameters) == sizes.parameters
    # A unit is gathered as a whole: each layer by itself, the rest around the root's forward pass.
    gathered = {id(unit): sum(p.numel() for p in own_parameters(unit)) for unit in units}
    assert [gathered[id(layer)] for layer in layers] == [sizes.layer] * sizes.layers
    assert gathered[id(root)] == sizes.outside


def own_parameters(unit: FSDPModule) -> list[torch.nn.Parameter]:
    group = unit._get_fsdp_state()._fsdp_param_group
    return [parameter.sharded_param for parameter in group.fsdp_params]


def test_every_model_that_has_options_has_its_sizes():
    named = {file.stem for file in Path("configs/model").glob("*.yaml")} - {"smoke"}
    assert named <= {file.stem for file in MODELS}


@pytest.mark.parametrize("config", KINDS)
def test_parameters_of_each_kind(config, tmp_path):
    sizes, model = sizes_of(config, tmp_path), on_meta(config)
    assert sizes.parameters == count(model.parameters())
    assert sizes.layer == count(model.model.layers[0].parameters())
    matrices = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)}
    biases = sum(m.bias.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m.bias is not None)
    assert sizes.products == sum(matrices.values()) + biases


@pytest.mark.parametrize("file", MODELS, ids=lambda file: file.stem)
def test_a_cached_token_is_as_large_as_vllm_says(file):
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    sizes = architecture(file)
    layer = FullAttentionSpec(
        block_size=16, num_kv_heads=sizes.kv_heads, head_size=sizes.head_width, dtype=torch.bfloat16
    )
    assert layer.page_size_bytes * sizes.layers == 16 * sizes.cached


@pytest.mark.parametrize("config", [KINDS[0], KINDS[1], KINDS[4]])
@pytest.mark.parametrize("of", [TRUE, AUTOCAST, FLOAT32])
def test_a_layer_saves_what_the_formula_says(config, of, tmp_path):
    sizes, tokens = sizes_of(config, tmp_path), 512
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if of == TRUE else torch.float32)
    own = {parameter.data_ptr() for parameter in model.parameters()}
    shapes = {shape for p in model.parameters() for shape in (p.shape, p.t().shape)}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own and tensor.shape not in shapes:  # no weight and no cast of one
            saved.setdefault(place, tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=of == AUTOCAST),
    ):
        model.base_model(input_ids=torch.randint(0, 96, (4, tokens // 4)), use_cache=False)
    found = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    told = tokens * (sizes.layers * saved_by_layer(sizes, of) + saved_by_norm(sizes, of))
    assert found == pytest.approx(told, rel=0.02)  # beside it: ids, and the sines of the positions


@pytest.mark.parametrize("of", [TRUE, FLOAT32])
def test_adamw_keeps_two_moments_of_the_parameters_type(of, tmp_path):
    sizes = sizes_of(KINDS[0], tmp_path)
    model = AutoModelForCausalLM.from_config(KINDS[0], dtype=torch.bfloat16 if of == TRUE else torch.float32)
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    states = ddp(sizes, of, 1, 1)
    assert sum(p.nbytes for p in model.parameters()) == states.weights
    assert sum(p.grad.nbytes for p in model.parameters() if p.grad is not None) == states.gradients
    moments = [t for state in optimizer.state.values() for name, t in state.items() if name != "step"]
    assert sum(moment.nbytes for moment in moments) == states.optimiser


@pytest.mark.parametrize(
    "file", [MODELS[0], pytest.param(MODELS[2], marks=pytest.mark.slow)], ids=lambda file: file.stem
)
@pytest.mark.parametrize("precision", [pytest.param("bf16-true", marks=pytest.mark.slow), "bf16-mixed"])
@pytest.mark.parametrize("checkpointing", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_peaks_of_a_step_of_a_7b_models_first_layers(file, precision, checkpointing, tmp_path):
    short = tmp_path / "config.json"
    short.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 2}))
    sizes, of, tokens = architecture(short), {"bf16-true": TRUE, "bf16-mixed": AUTOCAST}[precision], 8192
    batch, step = peaks(short, precision, tokens, checkpointing)
    states = ddp(sizes, of, 1, 1)
    assert states.stepping == pytest.approx(step, rel=1e-3)
    told = states.kept + activations(sizes, of, tokens, checkpointing)
    assert 0.99 * batch <= told <= 1.04 * batch


@pytest.mark.parametrize("file", MODELS, ids=lambda file: file.stem)
def test_peak_of_a_reference_of_a_7b_models_first_layers(file, tmp_path):
    short = tmp_path / "config.json"
    short.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 2}))
    sizes = architecture(short)
    assert reference(sizes, 16384, 0) == pytest.approx(reading_peak(short, 16384, packed=True), rel=1e-3)
    assert reference(sizes, 1024, 1024) == pytest.approx(reading_peak(short, 1024, packed=False), rel=0.02)


def test_what_the_trainer_says_of_logits_is_so_of_the_policy():
    assert (LOGITS, CHECKED) == (policy.LOGITS, policy.CHECKED)


@pytest.mark.parametrize("file", MODELS, ids=lambda file: file.stem)
def test_more_gpus_take_less_and_a_batch_that_fits_is_the_largest(file):
    sizes = architecture(file)
    for trainer in TRAINERS:
        kept = [trainer.states(sizes, trainer.of, 8 * nodes, nodes).kept for nodes in (1, 4)]
        assert kept[1] <= kept[0]
        for packed in (True, False):

            def taken(tokens: int, of: Precision = trainer.of, packed: bool = packed) -> float:
                return activations(sizes, of, tokens, True, packed)

            most = largest_batch(40e9, 1024, taken)
            assert taken(most * 1024) <= 40e9 < taken((most + 1) * 1024)
    assert largest_batch(-1.0, 1024, float) == 0


def test_deepspeeds_own_estimates():
    stage3 = pytest.importorskip("deepspeed.runtime.zero.stage3")
    stage2 = pytest.importorskip("deepspeed.runtime.zero.stage_1_and_2")
    sizes = architecture(MODELS[0])
    p, largest = sizes.parameters, sizes.embedding
    for nodes, gpus in ((1, 8), (4, 8)):
        n = nodes * gpus
        states = zero2(sizes, MASTER, n, nodes)
        assert states.stepping == pytest.approx(stage2.estimate_zero2_model_states_mem_needs(p, gpus, nodes, False)[1])
        states = zero3(sizes, MASTER, n, nodes)
        theirs = stage3.estimate_zero3_model_states_mem_needs(p, largest, gpus, nodes, False, False)[1]
        assert states.stepping == pytest.approx(theirs - 4 * largest + 2 * p / n)
        theirs = stage3.estimate_zero3_model_states_mem_needs(p, largest, gpus, nodes, True, True, True, 1.0)[0]
        assert zero3_offload(sizes, MASTER, n, nodes).host == pytest.approx(theirs)


def test_bfloat16_alone_loses_small_steps():
    """Why the trainers keep float32 weights: at a learning rate of 1e-6 next to no weight of usual size changes."""
    changed = {}
    for dtype in (torch.bfloat16, torch.float32):
        torch.manual_seed(0)
        weight = torch.nn.Parameter((0.02 * torch.randn(100_000)).to(dtype))
        before = weight.detach().clone()
        weight.grad = torch.randn(100_000).to(dtype)
        torch.optim.AdamW([weight], lr=1e-6, weight_decay=0.0).step()
        changed[dtype] = float((weight != before).float().mean())
    assert changed[torch.bfloat16] < 0.03
    assert changed[torch.float32] > 0.97


def test_fsdp2_holds_a_share_and_what_is_gathered():
    sizes = architecture(MODELS[0])
    one, many = (fsdp2(sizes, TRUE, n, 1) for n in (8, 64))
    assert many.weights == one.weights / 8
    assert many.buffers == one.buffers > 4 * sizes.outside


def test_the_command_says_what_fits(capsys):
    run(["memory", "configs/model/llama2_7b.json", "--machines", "[1x1,2x4]", "--gpu_gb", "80", "--row", "512"])
    said = capsys.readouterr().out
    assert "6,738,415,616 parameters" in said
    assert "2 x 4 x 80 GB, rows of 512 tokens" in said
    assert "float32 weights of the reference, 27.0 GB" in said  # 4 bytes each of 6,738,415,616
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("| ddp")]
    assert [row[9] for row in rows] == ["yes", "no"] * 2
    model = architecture(Path("configs/model/llama2_7b.json"))
    kept = ddp(model, TRUE, 1, 1).kept
    most = int(rows[0][10])
    assert kept + activations(model, TRUE, 512 * most, True) <= 80e9
    assert kept + activations(model, TRUE, 512 * (most + 1), True) > 80e9
    assert [row[14] for row in rows] == [""] * 4  # 53.9 GB are kept, and the reference has 27.0
    (row,) = (line.split("|")[1:-1] for line in said.splitlines()[-9:] if line.startswith("| fsdp2 | bf16-mixed"))
    kept, most = fsdp2(model, GATHERED, 8, 2).kept, int(row[14])
    assert kept + reference(model, 2 * 512 * most, 0) <= 80e9 < kept + reference(model, 2 * 512 * (most + 1), 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"cannot be read; give a model's folder"),
        ("{", r"is not JSON .* give a model's folder"),
        ("[]", r"model_type is None; known are llama"),
        ("[" * 100_000, r"is not JSON .* give a model's folder"),
        (
            '{"model_type": "llama", "num_attention_heads": 0}',
            r"num_attention_heads is 0, no size; give a number",
        ),
        ('{"model_type": "llama", "num_attention_heads": 1e3}', r"num_attention_heads is 1000.0, no size"),
        ('{"model_type": "llama", "num_attention_heads": "8"}', r"num_attention_heads is '8', no size"),
        ('{"model_type": "gpt2"}', r"model_type is 'gpt2'; known are llama, mistral, qwen2"),
        ('{"model_type": "llama"}', r"no 'num_attention_heads'; give the config.json of a llama model"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(text, message, tmp_path):
    file = tmp_path / "config.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=message):
        architecture(file)


@pytest.mark.parametrize("options", [["--machines", "[x8]"], ["--machines", "[8x]"], ["--row", "0"], ["--gpu_gb", "0"]])
def test_options_without_a_meaning_are_refused(options):
    with pytest.raises(InputError, match="memory: "):
        run(["memory", "configs/model/llama2_7b.json", *options])


def test_heads_of_keys_decide_the_cache():
    model = architecture(MODELS[0])
    assert replace(model, kv_heads=model.kv_heads // 4).cached * 4 == model.cached
