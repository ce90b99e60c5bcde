"""Rows: the trainer, transformers' own trainer, peft."""

from __future__ import annotations

import copy
import json
from typing import Any

from tests.model.home.rows import AMVL, TINY, Home, refuses, row, user
from tests.model.home.rows import reply as assistant

QUIET: dict[str, Any] = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "max_steps": 2, "logging_steps": 1}


def chat_rows(home: Home, number: int = 4) -> list[dict[str, Any]]:
    """Chat messages with an image, as a user's data set has them."""
    turns = [{"role": "user", "content": "Which one?"}, {"role": "assistant", "content": "(B)"}]
    return [{"messages": turns, "images": [home.images[0]]} for _ in range(number)]


def trainer(home: Home, name: str, **options: Any) -> Any:
    from amvl_model import AMVLTrainer, AMVLTrainingArguments

    own = (
        "train_dataset",
        "eval_dataset",
        "compute_loss_func",
        "optimizer_cls_and_kwargs",
        "data_collator",
        "peft_config",
    )
    data = {key: options.pop(key) for key in own if key in options}
    args = AMVLTrainingArguments(str(home.folder / name), beta=0.01, gamma=0.001, **{**QUIET, **options})
    return AMVLTrainer(model=str(AMVL), args=args, **data)


@row("trainer")
def a_dataset_and_a_stream_of_messages_train_the_same_model(home: Home) -> None:
    import torch
    from datasets import Dataset, Features, Image, List, Value

    message = {"role": Value("string"), "content": Value("string")}
    features = Features({"messages": List(message), "images": List(Image())})
    stored = Dataset.from_list(chat_rows(home), features=features)
    weights = []
    for name, data in (("map", stored), ("stream", stored.to_iterable_dataset()), ("list", chat_rows(home))):
        each = trainer(home, name, train_dataset=data, per_device_train_batch_size=2)
        assert each.train().training_loss > 0
        weights.append(each.model.injector.weight.detach())
    assert all(torch.equal(weights[0], other) for other in weights[1:])
    refuses(
        "expected the columns messages", lambda: trainer(home, "x", train_dataset=stored.remove_columns("messages"))
    )


@row("trainer")
def the_best_model_is_selected_by_the_answers_nll(home: Home) -> None:
    import logging

    data = {"train_dataset": chat_rows(home), "eval_dataset": chat_rows(home, 2)}
    warned: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("transformers").addHandler(handler)
    for name in ("eval_ntp", "eval_prior_ntp"):
        each = trainer(
            home,
            name,
            **data,
            eval_strategy="steps",
            eval_steps=1,
            save_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model=name,
            greater_is_better=False,
        )
        each.train()
        logged = [line for line in each.state.log_history if name in line]
        best = min(logged, key=lambda line: line[name])
        assert {"eval_ntp", "eval_prior_ntp", "eval_forward_kl", "eval_reverse_kl"} <= best.keys()
        assert each.state.best_metric == best[name] and each.state.best_global_step == best["step"]
    assert not [text for text in warned if "missing keys" in text]  # those of tied weights are not missing


@row("trainer")
def transformers_own_trainer_trains_evaluates_and_predicts(home: Home) -> None:
    import numpy as np
    import torch
    from transformers import Trainer, TrainingArguments

    batch, labels = home.labelled("right")
    one = {name: value[:1] for name, value in {**batch, "labels": labels}.items()}
    one["pixel_values"] = batch["pixel_values"][: int(batch["image_grid_thw"][0].prod())]

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {name: torch.cat([example[name] for example in examples]) for name in examples[0]}

    for number, (model, _) in enumerate(home.models):
        args = TrainingArguments(str(home.folder / f"plain-{number}"), per_device_train_batch_size=2, **QUIET)
        each = Trainer(copy.deepcopy(model), args, collate, [one] * 4, [one] * 2)
        assert each.train().training_loss > 0  # the images reach the model: it refuses image tokens without them
        assert each.evaluate()["eval_loss"] > 0
        found = each.predict([one] * 2)
        assert isinstance(found.predictions, np.ndarray) and found.predictions.ndim == 3


@row("trainer")
def an_optimizer_and_its_rate_are_honoured(home: Home) -> None:
    import torch

    chosen = (torch.optim.SGD, {"lr": 0.125})
    options: Any = {"train_dataset": chat_rows(home), "optimizer_cls_and_kwargs": chosen, "latent_learning_rate": 0.5}
    created = trainer(home, "x", **options).create_optimizer()
    assert type(created) is torch.optim.SGD and {group["lr"] for group in created.param_groups} == {0.125, 0.5}


@row("trainer")
def peft_wraps_trains_saves_merges_and_reloads(home: Home) -> None:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForImageTextToText

    batch, labels = home.labelled("right")
    options = {"latent_temperature": 0.0, "max_new_tokens": 3}
    wrapped = get_peft_model(
        copy.deepcopy(home.amvl), LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear")
    )
    wrapped(**batch, labels=labels).loss.backward()
    silent = [name for name, p in wrapped.named_parameters() if "lora_" in name and not bool(p.grad.any())]
    assert not [name for name in silent if "visual" not in name], silent
    expected = wrapped.eval().generate(**home.batch, **options)
    wrapped.save_pretrained(home.folder / "adapter")
    settings = json.loads((home.folder / "adapter" / "adapter_config.json").read_text())
    assert settings["peft_type"] == "LORA"
    fresh = AutoModelForImageTextToText.from_pretrained(AMVL)
    again = PeftModel.from_pretrained(fresh, home.folder / "adapter").eval()
    assert torch.equal(again.generate(**home.batch, **options), expected)
    again.merge_and_unload().save_pretrained(home.folder / "merged")
    merged = AutoModelForImageTextToText.from_pretrained(home.folder / "merged")
    assert torch.equal(merged.generate(**home.batch, **options), expected)


@row("trainer")
def peft_wraps_the_baselines_and_a_task_type_changes_nothing(home: Home) -> None:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForImageTextToText

    left, (batch, labels) = home.encode(home.chats, "left"), home.labelled("left")
    for number, (model, options) in enumerate(home.models):
        base, call = home.folder / f"peft-{number}", {"max_new_tokens": 3, "num_beams": 2, **options}
        model.save_pretrained(base)
        config = LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear", task_type="CAUSAL_LM")
        wrapped = get_peft_model(AutoModelForImageTextToText.from_pretrained(base), config).train()
        wrapped(**batch, labels=labels, return_dict=True, use_cache=False).loss.backward()
        expected = wrapped.eval().generate(**left, **call)
        wrapped.save_pretrained(base / "adapter-of-peft")
        fresh = AutoModelForImageTextToText.from_pretrained(base)
        again = PeftModel.from_pretrained(fresh, base / "adapter-of-peft").eval()
        assert torch.equal(again.generate(**left, **call), expected)
        again.merge_and_unload().save_pretrained(base / "merged")
        merged = AutoModelForImageTextToText.from_pretrained(base / "merged")
        assert torch.equal(merged.generate(**left, **call), expected)
        refuses(
            "contains adapters of peft",
            lambda b=base: AutoModelForImageTextToText.from_pretrained(b / "adapter-of-peft"),
        )


@row("trainer")
def a_lora_checkpoint_of_ours_is_one_of_peft_and_merges(home: Home) -> None:
    import torch
    from peft import PeftConfig

    from amvl_model import AMVLForConditionalGeneration

    model = AMVLForConditionalGeneration.from_backbone(TINY, 2, 8)
    model.add_lora(2)
    model.save_pretrained(home.folder / "ours")
    assert PeftConfig.from_pretrained(home.folder / "ours" / "adapter").r == 2
    again = AMVLForConditionalGeneration.from_pretrained(home.folder / "ours")
    options = {"latent_temperature": 0.0, "max_new_tokens": 3}
    expected = again.generate(**home.batch, **options)
    again.merge_lora()
    assert torch.equal(again.generate(**home.batch, **options), expected)


@row("trainer")
def adapters_on_a_whole_checkpoint_load_onto_its_backbone(home: Home) -> None:
    import torch
    from transformers import AutoModelForImageTextToText

    from amvl_model.models.loading import merge_checkpoint

    for number, (model, options) in enumerate(home.models):
        base, folder, call = (
            home.folder / f"whole-{number}",
            home.folder / f"on-{number}",
            {"max_new_tokens": 3, **options},
        )
        model.save_pretrained(base)
        adapted = AutoModelForImageTextToText.from_pretrained(base)
        adapted.add_lora(2)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.1)
        refuses("contains the base of these adapters", lambda a=adapted, b=base: a.save_pretrained(b))
        adapted.save_pretrained(folder)
        home.processor.save_pretrained(folder)
        expected = adapted.generate(**home.batch, **call)
        merge_checkpoint(folder, home.folder / f"merged-{number}")
        for path in (folder, home.folder / f"merged-{number}"):
            assert torch.equal(
                AutoModelForImageTextToText.from_pretrained(path).generate(**home.batch, **call), expected
            )


@row("trainer")
def adapters_of_each_model_are_trained_resumed_and_reloaded(home: Home) -> None:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from amvl_model import AMVLTrainer, AMVLTrainingArguments

    for name in ("amvl", "sft", "pause"):
        folder = home.folder / f"lora-{name}"
        own: dict[str, Any] = {"objective": name, "lora_rank": 2, "num_latents": 2, "latent_dim": 4, "save_steps": 1}
        for steps in (1, 2):
            args = AMVLTrainingArguments(str(folder), **{**QUIET, **own, "max_steps": steps})
            each = AMVLTrainer("tiny", args, train_dataset=chat_rows(home))
            each.train(resume_from_checkpoint=steps > 1)
        assert each.state.global_step == 2
        each.save_model()
        again = AutoModelForImageTextToText.from_pretrained(folder)
        assert type(AutoProcessor.from_pretrained(folder)) is type(home.processor)
        options = {"max_new_tokens": 3, **({"latent_temperature": 0.0} if name == "amvl" else {})}
        assert torch.equal(again.generate(**home.batch, **options), each.model.eval().generate(**home.batch, **options))


@row("trainer")
def bad_rows_and_arguments_are_one_clear_error(home: Home) -> None:
    from unittest import mock

    image = home.images[0]
    refuses(
        "a user turn",
        lambda: trainer(home, "x", train_dataset=[{"messages": [assistant("(B)")], "images": [image]}]).train(),
    )
    refuses(
        "name 0 image",
        lambda: trainer(
            home, "x", train_dataset=[{"messages": [*user("Text"), assistant("(B)")], "images": [image]}]
        ).train(),
    )
    refuses("remove_unused_columns must be False", lambda: trainer(home, "x", remove_unused_columns=True))
    refuses(
        "train_dataset: expected a data set, got dict; .* one of its splits",
        lambda: trainer(home, "x", train_dataset={"train": chat_rows(home)}),
    )
    refuses("data_collator: expected an AMVLCollator", lambda: trainer(home, "x", data_collator=lambda rows: rows[0]))
    refuses(r"added by AMVLTrainingArguments\(lora_rank=", lambda: trainer(home, "x", peft_config=object()))
    refuses("compute_loss_func: expected none", lambda: trainer(home, "x", compute_loss_func=lambda *_: 0))
    refuses("label_smoothing_factor must be 0", lambda: trainer(home, "x", label_smoothing_factor=0.1))
    refuses("fp16 needs a GPU", lambda: trainer(home, "x", fp16=True))
    with mock.patch("huggingface_hub.HfApi.create_repo", side_effect=OSError("no route to host")):
        refuses(
            "push_to_hub to org/x: the Hub did not answer",
            lambda: trainer(home, "x", train_dataset=chat_rows(home), push_to_hub=True, hub_model_id="org/x"),
            ConnectionError,
        )
