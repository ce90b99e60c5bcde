"""Rows: loading, losses, vocabularies, attention, devices, precision, export."""

from __future__ import annotations

import importlib.util
from typing import Any

from tests.model.home.rows import AMVL, TINY, Home, refuses, row


@row("package first", "transformers first")
def the_auto_classes_know_both_model_types(home: Home) -> None:
    from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

    assert AutoConfig.from_pretrained(AMVL).num_latents == 4
    assert type(AutoModel.from_pretrained(AMVL)).__name__ == "AMVLForConditionalGeneration"
    assert type(home.amvl).__name__ == "AMVLForConditionalGeneration"
    assert type(home.processor).__name__ == "AMVLProcessor"
    baseline = AutoModelForImageTextToText.from_config(
        AutoConfig.for_model("amvl_pause", vlm_config=home.amvl.config.vlm_config)
    )
    baseline.save_pretrained(home.folder / "baseline")
    home.processor.save_pretrained(home.folder / "baseline")
    assert type(AutoModelForImageTextToText.from_pretrained(home.folder / "baseline")) is type(baseline)
    assert type(AutoProcessor.from_pretrained(home.folder / "baseline")) is type(home.processor)


@row("package first")
def a_lora_checkpoint_loads_through_the_auto_classes(home: Home) -> None:
    if importlib.util.find_spec("peft") is None:
        return
    import torch
    from transformers import AutoModelForImageTextToText

    from amvl_model import AMVLForConditionalGeneration

    model = AMVLForConditionalGeneration.from_backbone(TINY, 2, 8)
    model.add_lora(2)
    model.save_pretrained(home.folder / "lora")
    again = AutoModelForImageTextToText.from_pretrained(home.folder / "lora")
    options = {"latent_temperature": 0.0, "max_new_tokens": 3}
    assert torch.equal(again.generate(**home.batch, **options), model.eval().generate(**home.batch, **options))


@row("model")
def labels_give_the_loss_of_the_question_and_its_answer_whatever_the_padding(home: Home) -> None:
    import torch

    from amvl_model.config.schema import ObjectiveConfig

    names = ("amvl", "sft", "pause")
    for (model, _), name in zip(home.models, names, strict=True):
        found = []
        answers = home.processor.encode_answer("(B)").expand(4, -1)
        questions = {**home.batch, "answer_ids": answers, "answer_mask": torch.ones_like(answers)}
        loss = ObjectiveConfig(name=name).loss(1.0)
        for batch in ({**questions, "loss": loss}, *map(with_labels, (home.labelled("left"), home.labelled("right")))):
            torch.manual_seed(0)
            out = model(**batch)
            found.append((out.loss, out.logits))
        for value, logits in found[1:]:
            assert torch.equal(value, found[0][0]) and torch.equal(logits, found[0][1])
        batch, labels = home.labelled("left")
        own = model(**batch, labels=labels, loss=ObjectiveConfig(name="prior").loss(1.0) if name == "amvl" else loss)
        assert set(own.terms.mean()) <= {"total", "ntp"}
        out.loss.backward()
        assert model.get_input_embeddings().weight.grad.abs().sum() > 0
        model.zero_grad()


def with_labels(labelled: tuple[Any, Any]) -> dict[str, Any]:
    return {**labelled[0], "labels": labelled[1]}


@row("model")
def labels_that_name_no_single_answer_are_refused(home: Home) -> None:
    batch, labels = home.labelled("right")
    for model, _ in home.models:
        refuses("1 parts behind 0 tokens", lambda m=model: m(**batch, labels=batch["input_ids"]))
        refuses("0 parts", lambda m=model: m(**batch, labels=labels.new_full(labels.shape, -100)))
        twice = labels.clone()
        twice[0, 4] = 3
        refuses("row 0: .* got 2 parts", lambda m=model, t=twice: m(**batch, labels=t))
        refuses("labels of the shape of input_ids", lambda m=model: m(**batch, labels=labels[:, 1:]))
        refuses("labels or answer_ids, got both", lambda m=model: m(**batch, labels=labels, answer_ids=labels))
        refuses("labels", lambda m=model: m(**batch))
        refuses("unknown", lambda m=model: m(**batch, labels=labels, unknown=1), TypeError)


@row("model")
def another_attention_is_refused_by_every_door(home: Home) -> None:
    import copy

    from transformers import AutoConfig, AutoModelForImageTextToText

    from amvl_model import AMVLForConditionalGeneration

    for wrong in ("eager", "flash_attention_2", {"text_config": "eager"}, {"vlm_config": {"text_config": "eager"}}):
        refuses(
            "must be 'sdpa'", lambda w=wrong: AMVLForConditionalGeneration.from_pretrained(AMVL, attn_implementation=w)
        )
        refuses("must be 'sdpa'", lambda w=wrong: AutoConfig.from_pretrained(AMVL, attn_implementation=w))
        refuses(
            "must be 'sdpa'",
            lambda w=wrong: AutoModelForImageTextToText.from_config(home.amvl.config, attn_implementation=w),
        )
        refuses(
            "must be 'sdpa'", lambda w=wrong: AutoModelForImageTextToText.from_pretrained(AMVL, attn_implementation=w)
        )
        refuses(
            "must be 'sdpa'", lambda w=wrong: AMVLForConditionalGeneration.from_backbone(TINY, attn_implementation=w)
        )
        for model, _ in home.models:
            refuses("must be 'sdpa'", lambda m=model, w=wrong: m.set_attn_implementation(w))
    eager = AutoModelForImageTextToText.from_pretrained(TINY, attn_implementation="eager")
    refuses("must be 'sdpa'", lambda: AMVLForConditionalGeneration.from_backbone(eager))
    for model, _ in home.models:
        changed = copy.deepcopy(model)
        changed.backbone.set_attn_implementation("eager")
        refuses("text model was set to 'eager'", lambda m=changed: m.generate(**home.batch))
    home.amvl.set_attn_implementation("sdpa")
    assert AutoModelForImageTextToText.from_pretrained(AMVL, attn_implementation="sdpa").config.num_latents == 4


@row("model")
def outputs_that_a_configuration_asks_for_in_vain_are_refused(home: Home) -> None:
    batch, labels = home.labelled("right")
    for model, _ in home.models:
        for name, value in (("output_hidden_states", True), ("return_dict", False)):
            setattr(model.config, name, value)
            refuses(f"config.{name} must be {not value}", lambda m=model: m.generate(**home.batch))
            refuses(f"config.{name} must be {not value}", lambda m=model: m(**batch, labels=labels))
            setattr(model.config, name, not value)


@row("model")
def one_device_is_taken_and_several_are_refused(home: Home) -> None:
    from transformers import AutoModelForImageTextToText

    from amvl_model import AMVLForConditionalGeneration

    for one in ("auto", "cpu", {"": "cpu"}):
        assert AutoModelForImageTextToText.from_pretrained(AMVL, device_map=one).device.type == "cpu"
    several = {"backbone": "cpu", "": "disk"}
    refuses("got cpu, disk", lambda: AutoModelForImageTextToText.from_pretrained(AMVL, device_map=several))
    refuses(
        "whole model on one device",
        lambda: AMVLForConditionalGeneration.from_backbone(TINY, device_map={"model": 0, "": 1}),
    )


@row("model")
def a_fresh_model_has_float32_weights_and_bfloat16_ones_are_named(home: Home) -> None:
    import logging

    import torch
    from transformers import AutoModelForImageTextToText

    from amvl_model import AMVLForConditionalGeneration, PauseForConditionalGeneration

    stored = AutoModelForImageTextToText.from_pretrained(TINY)
    assert stored.dtype == torch.bfloat16
    for model in (
        AMVLForConditionalGeneration.from_backbone(TINY, 2, 8),
        PauseForConditionalGeneration.from_backbone(TINY),
    ):
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("amvl_model").addHandler(handler)
    AMVLForConditionalGeneration.from_backbone(stored, 2, 8)
    assert len(seen) == 1 and "weights are bfloat16" in seen[0] and "lost" in seen[0], seen
    half = AutoModelForImageTextToText.from_pretrained(AMVL, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.prior_head.linear.weight.dtype == torch.float32


@row("model")
def vocabularies_are_resized_and_checkpointing_is_switched_on(home: Home) -> None:
    import copy

    import torch

    for original, _ in home.models:
        model = copy.deepcopy(original)
        size = model.get_input_embeddings().weight.shape[0]
        assert model.resize_token_embeddings(size + 64, mean_resizing=False).weight.shape[0] == size + 64
        batch, labels = home.labelled("left")
        model.train()
        losses = []
        for enable in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
            enable()
            torch.manual_seed(0)
            losses.append(float(model(**batch, labels=labels).loss.detach()))
        assert losses[0] == losses[1]


@row("model")
def sft_is_exported_as_a_checkpoint_of_transformers_own_class(home: Home) -> None:
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = home.models[1][0]
    model.export_backbone(home.folder / "plain")
    plain, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(home.folder / "plain", output_loading_info=True)
    assert not any(report.values())
    batch, labels = home.labelled("right")
    with torch.no_grad():
        expected = model(**batch, labels=labels)
        every = plain(**batch).logits
    for index, target in enumerate(labels):
        at = (target != -100).nonzero().flatten() - 1
        torch.testing.assert_close(every[index, at], expected.logits[index, : len(at)], rtol=1e-4, atol=1e-4)
    refuses("3 pause tokens", lambda: home.models[2][0].export_backbone(home.folder / "pause"))


@row("model")
def baselines_are_scored_like_the_model(home: Home) -> None:
    from amvl_model.data.synthetic import synthetic_question
    from amvl_model.evaluation.evaluate import evaluate

    questions = [synthetic_question("Counting", split="test", index=index) for index in range(3)]
    for model, options in home.models:
        found = evaluate(
            model, home.processor, questions, scoring=("generation",), n_bootstrap=10, max_new_tokens=16, progress=False
        )
        encoded = home.processor(questions, answers=False)
        replies = home.processor.decode(model.generate(**encoded, max_new_tokens=16, do_sample=False, **options))
        assert [record.reply for record in found.records] == replies


@row("quantised")
def four_bit_weights_load_are_saved_and_load_again(home: Home) -> None:
    import torch
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    from amvl_model import AMVLForConditionalGeneration, PauseForConditionalGeneration

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    makers = {
        "loaded": lambda: AutoModelForImageTextToText.from_pretrained(AMVL, quantization_config=config),
        "fresh": lambda: AMVLForConditionalGeneration.from_backbone(TINY, 4, 16, quantization_config=config),
        "pause": lambda: PauseForConditionalGeneration.from_backbone(TINY, 2, quantization_config=config),
    }
    batch, labels = home.labelled("left")
    for name, make in makers.items():
        model = make().eval()
        model.save_pretrained(home.folder / name)
        again = AutoModelForImageTextToText.from_pretrained(home.folder / name)
        for each in (model, again):
            layer = each.backbone.model.language_model.layers[0]
            assert type(layer.mlp.up_proj).__name__ == "Linear4bit", name
            assert name == "pause" or type(each.prior_head.linear) is type(each.injector) is torch.nn.Linear
        with torch.no_grad():
            assert torch.equal(*(forward(each, batch, labels) for each in (model, again)))


@row("quantised")
def eight_bit_weights_load_are_saved_and_load_again(home: Home) -> None:
    import torch
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForImageTextToText.from_pretrained(AMVL, quantization_config=config)
    model.save_pretrained(home.folder / "eight")
    again = AutoModelForImageTextToText.from_pretrained(home.folder / "eight")
    assert type(again.backbone.model.language_model.layers[0].mlp.up_proj).__name__ == "Linear8bitLt"
    options = {"latent_temperature": 0.0, "max_new_tokens": 3}
    assert torch.equal(again.generate(**home.batch, **options), model.generate(**home.batch, **options))


@row("quantised")
def adapters_on_four_bit_weights_train_and_load_again(home: Home) -> None:
    import torch
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    from amvl_model import AMVLForConditionalGeneration, AMVLTrainer, AMVLTrainingArguments
    from tests.model.home.rows_trainer import QUIET, chat_rows

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    options = {"latent_temperature": 0.0, "max_new_tokens": 3}
    AutoModelForImageTextToText.from_pretrained(TINY, quantization_config=config).save_pretrained(home.folder / "base")
    whole = AutoModelForImageTextToText.from_pretrained(AMVL, quantization_config=config)
    whole.save_pretrained(home.folder / "whole")
    for name, model, init in (
        ("quantised when loaded", str(TINY), {"quantization_config": config}),
        ("a stored backbone", str(home.folder / "base"), {}),
        ("a stored model", str(home.folder / "whole"), {}),
    ):
        own: Any = {"num_latents": 2, "latent_dim": 4, "model_init_kwargs": init}
        refuses(
            "purely quantized models",
            lambda m=model, o=own: AMVLTrainer(
                m,
                AMVLTrainingArguments(str(home.folder / "none"), **QUIET, **o),
                train_dataset=chat_rows(home),
                processing_class=home.processor,
            ),
        )
        args = AMVLTrainingArguments(str(home.folder / name), lora_rank=2, **QUIET, **own)
        each = AMVLTrainer(model, args, train_dataset=chat_rows(home), processing_class=home.processor)
        each.train()
        each.save_model()
        again = AutoModelForImageTextToText.from_pretrained(home.folder / name)
        assert type(again.backbone.model.language_model.layers[0].mlp.up_proj.base_layer).__name__ == "Linear4bit"
        assert torch.equal(again.generate(**home.batch, **options), each.model.eval().generate(**home.batch, **options))
        refuses("merged into a quantised backbone", again.merge_lora)
    fresh = AMVLForConditionalGeneration.from_backbone(TINY, 2, 4, quantization_config=config)
    refuses("not supported for quantized model", fresh.half)


def forward(model: Any, batch: Any, labels: Any) -> Any:
    import torch

    torch.manual_seed(0)
    return model(**batch, labels=labels).logits
