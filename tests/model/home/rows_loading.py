"""Rows: from_pretrained and save_pretrained with their options, precision, pickles, accelerate."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

from tests.model.home.rows import AMVL, TINY, Home, refuses, row

REPLY = {"max_new_tokens": 3, "latent_temperature": 0.0}


def reply(home: Home, model: Any) -> Any:
    return model.eval().generate(**home.batch, **REPLY)


def same(home: Home, model: Any) -> bool:
    return bool((reply(home, model) == reply(home, home.amvl)).all())


@row("loading")
def from_pretrained_takes_subfolder_revision_variant_and_local_files_only(home: Home) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    outer = home.folder / "outer"
    for model, _ in home.models[:2]:
        model.save_pretrained(outer / "inner", variant="fp16")
        options = {"subfolder": "inner", "variant": "fp16", "revision": "main", "local_files_only": True}
        again = AutoModelForImageTextToText.from_pretrained(outer, **options)
        assert type(again) is type(model) and all(
            (a == b).all() for a, b in zip(again.parameters(), model.parameters(), strict=True)
        )
    home.processor.save_pretrained(outer / "inner")
    assert type(AutoProcessor.from_pretrained(outer, subfolder="inner")) is type(home.processor)
    refuses(
        r"model\.safetensors is missing",
        lambda: AutoModelForImageTextToText.from_pretrained(outer, subfolder="inner"),
        FileNotFoundError,
    )
    refuses("no config.json", lambda: type(home.amvl).from_pretrained(outer), FileNotFoundError)


@row("loading")
def from_pretrained_refuses_pickles_and_parallel_plans(home: Home) -> None:
    from transformers import AutoModelForImageTextToText

    def load(**options: Any) -> Any:
        return AutoModelForImageTextToText.from_pretrained(AMVL, **options)

    assert load(use_safetensors=True).config.num_latents == 4
    refuses("use_safetensors: expected True", lambda: load(use_safetensors=False))
    refuses("cannot use tp_plan", lambda: load(tp_plan="auto"))
    refuses("one device, got disk", lambda: load(device_map={"": "disk"}))
    refuses("num_latent", lambda: load(num_latent=8), TypeError)


@row("loading")
def checkpoints_are_written_in_shards_and_load_again(home: Home) -> None:
    from transformers import AutoModelForImageTextToText

    folder = home.folder / "shards"
    home.amvl.save_pretrained(folder, max_shard_size="4MB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert same(home, AutoModelForImageTextToText.from_pretrained(folder))


@row("loading")
def dtype_auto_is_the_stored_one_and_heads_stay_float32(home: Home) -> None:
    import torch
    from transformers import AutoModelForImageTextToText

    assert AutoModelForImageTextToText.from_pretrained(AMVL, dtype="auto").dtype == torch.float32
    for dtype in (torch.bfloat16, "float16"):
        model = AutoModelForImageTextToText.from_pretrained(AMVL, dtype=dtype)
        assert model.dtype in (torch.bfloat16, torch.float16) and model.prior_head.linear.weight.dtype == torch.float32
        model.save_pretrained(home.folder / str(dtype))
        assert AutoModelForImageTextToText.from_pretrained(home.folder / str(dtype), dtype="auto").dtype == model.dtype


@row("loading")
def a_cast_model_answers_and_trains(home: Home) -> None:
    import torch

    batch, labels = home.labelled("right")
    for model, _ in home.models:
        for cast in (lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.double()):
            moved = cast(copy.deepcopy(model))
            assert moved.generate(**home.batch, max_new_tokens=2).shape == (4, 2)
            loss = moved(**batch, labels=labels).loss
            loss.backward()
            assert bool(loss.isfinite()) and moved.get_input_embeddings().weight.grad.dtype == moved.dtype


@row("loading")
def models_and_configurations_are_pickled_and_copied(home: Home) -> None:
    import torch

    config = home.amvl.config
    for other in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config), type(config).from_dict(config.to_dict())):
        assert other.to_dict() == config.to_dict()
    for again in (pickle.loads(pickle.dumps(home.amvl)), copy.deepcopy(home.amvl)):
        assert same(home, again)
        with torch.no_grad():
            again.backbone.model.language_model.layers[0].mlp.down_proj.weight.mul_(-3.0)
        assert not same(home, again)
    assert type(pickle.loads(pickle.dumps(home.processor))) is type(home.processor)


@row("loading")
def the_generation_config_is_saved_beside_the_model(home: Home) -> None:
    from transformers import AutoModelForImageTextToText, GenerationConfig

    model, folder = copy.deepcopy(home.amvl), home.folder / "generation"
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(folder)
    assert json.loads((folder / "generation_config.json").read_text())["max_new_tokens"] == 7
    assert GenerationConfig.from_pretrained(folder).max_new_tokens == 7
    again = AutoModelForImageTextToText.from_pretrained(folder)
    assert again.generate(**home.batch, suppress_tokens=[2]).shape == (4, 7)


@row("loading")
def accelerate_loads_onto_one_device_and_several_are_refused(home: Home) -> None:
    import torch
    from accelerate import cpu_offload, dispatch_model, init_empty_weights, load_checkpoint_and_dispatch
    from transformers import AutoConfig, AutoModelForImageTextToText

    with init_empty_weights():
        empty = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(AMVL))
    refuses("on the meta device", lambda: empty.generate(**home.batch))
    assert same(home, load_checkpoint_and_dispatch(empty, str(AMVL), device_map="auto"))
    parts = {name: "cpu" for name, _ in home.amvl.named_children()} | {"injector": "disk"}
    refuses(
        "one device, got cpu, disk",
        lambda: dispatch_model(copy.deepcopy(home.amvl), parts, offload_dir=home.folder / "disk", force_hooks=True),
    )
    offloaded = cpu_offload(copy.deepcopy(home.amvl), execution_device=torch.device("cpu"))
    refuses("were offloaded", lambda: offloaded.generate(**home.batch))


@row("loading")
def any_to_any_and_other_auto_classes_answer_or_refuse(home: Home) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

    assert same(home, AutoModelForMultimodalLM.from_pretrained(AMVL))
    try:
        AutoModelForCausalLM.from_pretrained(AMVL)
    except ValueError as error:
        assert "AMVLConfig" in str(error)
    else:
        raise AssertionError("AutoModelForCausalLM took a vision-language model")


@row("compiled")
def a_compiled_model_answers_and_trains_as_it_does_uncompiled(home: Home) -> None:
    import torch
    from transformers import AutoConfig

    from amvl_model import AMVLConfig, AMVLForConditionalGeneration

    vlm = AutoConfig.from_pretrained(TINY).to_dict()
    vlm["text_config"] |= {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    vlm["vision_config"] |= {"depth": 1, "fullatt_block_indexes": [0]}
    torch.manual_seed(0)
    model = AMVLForConditionalGeneration(AMVLConfig(vlm_config=vlm, num_latents=2, latent_dim=4)).eval()
    compiled = torch.compile(model, backend="eager")
    batch, labels = home.labelled("right")
    losses = []
    for each in (model, compiled):
        torch.manual_seed(0)
        loss = each(**batch, labels=labels).loss
        loss.backward()
        losses.append((loss.detach(), model.injector.weight.grad.clone()))
        model.zero_grad()
    for found, expected in zip(*losses, strict=True):
        torch.testing.assert_close(found, expected)
    assert torch.equal(reply(home, compiled), reply(home, model))
