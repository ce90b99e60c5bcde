"""Rows: `generate` of AMVL and of both baselines."""

from __future__ import annotations

from typing import Any

from tests.model.home.rows import Home, refuses, row

FEW = {"max_new_tokens": 5}


@row("generate")
def both_paddings_and_a_question_alone_give_the_same_replies(home: Home) -> None:
    import torch

    for model, options in home.models:
        right = model.generate(**home.batch, **FEW, **options)
        assert torch.equal(right, model.generate(**home.encode(home.chats, "left"), **FEW, **options))
        for chat, row_of_batch in zip(home.chats, right, strict=True):
            alone = model.generate(**home.encode(chat), **FEW, **options)[0]
            assert torch.equal(row_of_batch[: len(alone)], alone)


@row("generate")
def a_generation_config_is_honoured_beams_included(home: Home) -> None:
    import torch
    from transformers import GenerationConfig

    searched = []
    for model, options in home.models:
        beams = model.generate(**home.batch, num_beams=3, **FEW, **options)
        config = GenerationConfig(num_beams=3, **FEW)
        assert torch.equal(model.generate(**home.batch, generation_config=config, **options), beams)
        searched.append(not torch.equal(beams, model.generate(**home.batch, **FEW, **options)))
        assert (config.num_beams, config.pad_token_id) == (3, None)  # the caller's own object is left as it was
        sampled = GenerationConfig(num_return_sequences=2, do_sample=True, temperature=3.0, **FEW)
        assert model.generate(**home.batch, generation_config=sampled, **options).shape == (8, 5)
    assert any(searched)  # the trained model is so sure that its best beam is the greedy reply


@row("generate")
def the_models_own_generation_config_is_the_default(home: Home) -> None:
    for model, options in home.models:
        model.generation_config.max_new_tokens = 2
        try:
            assert model.generate(**home.batch, **options).shape[1] == 2
        finally:
            model.generation_config.max_new_tokens = None
        assert model.generate(**home.batch, **options).shape[1] == 20  # transformers' default
        assert model.generate(**home.batch, max_length=home.batch["input_ids"].shape[1] + 4, **options).shape[1] == 4


@row("generate")
def beams_and_several_returned_sequences_go_together(home: Home) -> None:
    for model, options in home.models:
        found = model.generate(
            **home.batch,
            num_beams=3,
            num_return_sequences=2,
            return_dict_in_generate=True,
            output_scores=True,
            **FEW,
            **options,
        )
        assert found.sequences.shape == (8, 5) and found.sequences_scores.shape == (8,)
    baseline, _ = home.models[1]
    best, second = baseline.generate(**home.batch, num_beams=3, num_return_sequences=2, **FEW)[:2].tolist()
    assert best != second


@row("generate")
def an_output_dictionary_has_the_replies_and_their_scores(home: Home) -> None:
    import torch

    for model, options in home.models:
        plain = model.generate(**home.batch, **FEW, **options)
        found = model.generate(**home.batch, return_dict_in_generate=True, output_scores=True, **FEW, **options)
        assert torch.equal(found.sequences, plain) and len(found.scores) == plain.shape[1]
        scores = model.compute_transition_scores(found.sequences, found.scores, normalize_logits=True)
        torch.testing.assert_close(found.scores[0].log_softmax(-1).amax(-1), scores[:, 0], rtol=1e-4, atol=1e-5)


@row("generate")
def a_list_of_end_tokens_and_stop_strings_end_a_reply(home: Home) -> None:
    for model, options in home.models:
        free = model.generate(**home.batch, **FEW, **options)[0].tolist()
        ended = model.generate(**home.batch, eos_token_id=[free[1], 2], **FEW, **options)[0].tolist()
        assert ended[:2] == free[:2] and set(ended[2:]) <= {0}
        one = home.encode(home.chats[0])
        options = {"max_new_tokens": 8, "suppress_tokens": [2], **options}
        text = home.processor.decode(model.generate(**one, **options))[0]
        stopped = model.generate(**one, stop_strings=[text[1:3]], tokenizer=home.processor.tokenizer, **options)
        assert stopped.shape[1] < 8 and text.startswith(home.processor.decode(stopped)[0])


@row("generate")
def a_streamer_gets_the_question_and_then_the_reply(home: Home) -> None:
    from transformers import TextIteratorStreamer

    one, tokenizer = home.encode(home.chats[1]), home.processor.tokenizer
    for model, options in home.models:
        expected = home.processor.decode(model.generate(**one, **FEW, **options))[0]
        for skip in (True, False):
            streamer = TextIteratorStreamer(tokenizer, skip_prompt=skip, skip_special_tokens=True)
            model.generate(**one, streamer=streamer, **FEW, **options)
            before = "" if skip else tokenizer.decode(one["input_ids"][0], skip_special_tokens=True)
            assert "".join(streamer) == before + expected


@row("generate")
def sampling_penalties_and_the_prompt_are_options(home: Home) -> None:
    import torch

    for model, options in home.models:
        torch.manual_seed(0)
        drawn = model.generate(**home.batch, do_sample=True, temperature=5.0, num_return_sequences=3, **FEW, **options)
        assert len(drawn) == 12 and len(drawn[:3].unique(dim=0)) > 1
        once = model.generate(**home.batch, no_repeat_ngram_size=1, **FEW, **options)[0].tolist()
        assert len(set(once)) == len(once)
        whole = model.generate(**home.batch, return_prompt=True, **FEW, **options)
        assert torch.equal(whole[:, : home.batch["input_ids"].shape[1]], home.batch["input_ids"])
        assert torch.equal(whole[:, -5:], model.generate(**home.batch, **FEW, **options))
        assert torch.equal(model.generate(home.batch.pop("input_ids"), **home.batch, **FEW, **options), whole[:, -5:])
        del home.__dict__["batch"]


@row("generate")
def generate_refuses_what_it_does_not_know(home: Home) -> None:
    from transformers import DynamicCache

    refused: list[tuple[dict[str, Any], str]] = [
        ({"max_new_token": 3}, "max_new_token; did you mean max_new_tokens"),
        ({"answer_ids": home.batch["input_ids"]}, "answer_ids.*answers=False"),
        ({"pixel_values_videos": home.batch["pixel_values"]}, "pixel_values_videos"),
        ({"use_cache": False}, "use_cache=False: the query stands in the cache"),
        ({"output_hidden_states": True}, "output_hidden_states=True"),
        ({"output_attentions": True}, "output_attentions=True"),
        ({"cache_implementation": "static"}, "cache_implementation=static"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens=3"),
        ({"assistant_model": home.amvl}, "assistant_model=AMVL"),
        ({"guidance_scale": 2.0}, r"guidance_scale=2\.0"),
        ({"negative_prompt_ids": home.batch["input_ids"]}, "negative_prompt_ids=Tensor"),
        ({"is_assistant": True}, "is_assistant=True"),
        ({"past_key_values": DynamicCache()}, "past_key_values=DynamicCache: the query is encoded by generate"),
        ({"inputs_embeds": home.batch["pixel_values"]}, "inputs_embeds=Tensor"),
    ]
    for model, options in home.models:
        for wrong, message in refused:
            refuses(message, lambda m=model, w=wrong, o=options: m.generate(**home.batch, **w, **o))
        refuses("needs input_ids", lambda m=model: m.generate(max_new_tokens=3))
        refuses("continuous batching is not supported", lambda m=model: m.generate_batch([[1, 2, 3]]))
        ids, mask = home.batch["input_ids"], home.batch["attention_mask"]
        refuses("pass attention_mask .* by name", lambda m=model, i=ids, k=mask: m.generate(i, k), TypeError)
    refuses("unknown arguments: seed", lambda: home.models[1][0].generate(**home.batch, seed=0))
    refuses("latent; did you mean latents", lambda: home.amvl.generate(**home.batch, latent=0))


@row("generate")
def a_pipeline_answers_with_each_model(home: Home) -> None:
    from transformers import pipeline

    for number, (model, options) in enumerate(home.models):
        folder = home.folder / f"pipeline-{number}"
        model.save_pretrained(folder)
        home.processor.save_pretrained(folder)
        answer = pipeline("image-text-to-text", model=str(folder))
        call: dict[str, Any] = {"return_full_text": False, "generate_kwargs": {**FEW, **options}}
        for chat in home.chats:
            expected = home.processor.decode(model.generate(**home.encode(chat), **FEW, **options))[0]
            assert answer(text=chat, **call)[0]["generated_text"] == expected
        full = answer(text=home.chats[0], generate_kwargs={**FEW, **options})[0]["generated_text"]
        assert [message["role"] for message in full] == ["user", "assistant"]
        together = answer(text=[home.chats[0], home.chats[1]], batch_size=2, **call)
        alone = [answer(text=chat, **call) for chat in home.chats[:2]]
        assert [each[0]["generated_text"] for each in together] == [each[0]["generated_text"] for each in alone]
        prompt = home.processor.apply_chat_template(home.chats[0], add_generation_prompt=True)
        text = answer(images=home.images[:1], text=prompt, **call)[0]["generated_text"]
        assert text == alone[0][0]["generated_text"]
        refuses("as many images as the text names", lambda a=answer: a(images=home.images[:1], text="no place for it"))
        refuses("role 'user'", lambda a=answer: a(text=[{"role": "system", "content": "x"}]))


@row("generate")
def images_that_are_missing_or_no_tensors_are_refused(home: Home) -> None:
    import numpy as np

    for model, options in home.models:
        call: Any = {**home.batch, **FEW, **options}
        for wrong, message in (
            ({"pixel_values": None}, r"name images \(\d+ tokens\), but pixel_values is missing"),
            ({"image_grid_thw": None}, "pixel_values without image_grid_thw"),
            ({"input_ids": np.asarray(home.batch["input_ids"])}, "tensor .* got ndarray"),
            ({"input_ids": home.batch["input_ids"][0]}, "tensor .* got Tensor"),
            ({"attention_mask": home.batch["attention_mask"][:, 1:]}, "mask of the shape of its tokens"),
        ):
            refuses(message, lambda m=model, c=call, w=wrong: m.generate(**{**c, **w}))
        batch, labels = home.labelled("right")
        refuses(
            "pixel_values is missing", lambda m=model, b=batch, t=labels: m(**{**b, "pixel_values": None}, labels=t)
        )
    broken = home.amvl.generate
    refuses("finite latents", lambda: broken(**home.batch, latents=lambda prior: prior.mean / 0.0 * 0.0))
    refuses("at least 0", lambda: broken(**home.batch, latent_temperature=-1.0))


@row("generate")
def processors_stopping_criteria_and_watermarks_are_transformers_own(home: Home) -> None:
    import torch
    from transformers import WatermarkingConfig

    for model, options in home.models:
        call: Any = {**home.batch, **FEW, **options}
        assert model.generate(**call, logits_processor=[lambda ids, scores: scores * 0]).unique().tolist() == [0]
        once = model.generate(**call, stopping_criteria=[lambda ids, scores: torch.ones(len(ids), dtype=torch.bool)])
        assert once.shape == (4, 1)
        plain = model.generate(**call)
        assert not torch.equal(model.generate(**call, watermarking_config=WatermarkingConfig()), plain)
        found = model.generate(**call, return_dict_in_generate=True, output_logits=True)
        assert found.logits[0].shape[0] == 4
        refuses("locate a tokenizer", lambda m=model, c=call: m.generate(**c, stop_strings=["A"]))
        refuses(
            "Group Beam Search",
            lambda m=model, c=call: m.generate(**c, num_beams=4, num_beam_groups=2, diversity_penalty=1.0),
        )


@row("generate")
def callbacks_get_the_query_as_it_was_given_and_the_reply(home: Home) -> None:
    import torch

    for model, options in home.models:
        for side in ("left", "right"):
            batch, rows = home.encode(home.chats, side), []
            query = batch["input_ids"]

            def on_batch(ids: Any, scores: Any, q: Any = query, seen: list[Any] = rows) -> Any:
                prompts = q.repeat_interleave(len(ids) // len(q), dim=0)
                seen.append((torch.equal(ids[:, : q.shape[1]], prompts), ids.shape[1] - q.shape[1]))
                return scores

            def stop(ids: Any, scores: Any, call: Any = on_batch) -> Any:
                call(ids, scores)
                return torch.zeros(len(ids), dtype=torch.bool)

            def allowed(index: int, ids: Any, q: Any = query, seen: list[Any] = rows) -> list[int]:
                seen.append((torch.equal(ids[: q.shape[1]], q[index]), len(ids) - q.shape[1]))
                return list(range(3, 600))

            call = {"logits_processor": [on_batch], "stopping_criteria": [stop], "prefix_allowed_tokens_fn": allowed}
            for more in ({}, {"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}):
                rows.clear()
                if "do_sample" in more:
                    del call["prefix_allowed_tokens_fn"]
                model.generate(**batch, max_new_tokens=3, **call, **options, **more)
                same, lengths = zip(*rows, strict=True)
                assert all(same) and set(lengths) == {0, 1, 2, 3}, more


@row("generate")
def padding_without_a_mask_is_told_by_its_token_or_refused(home: Home) -> None:
    import torch

    for model, options in home.models:
        expected = model.generate(**home.batch, **FEW, **options)
        for side in ("left", "right"):
            batch = home.encode(home.chats, side)
            mask = batch.pop("attention_mask")
            assert torch.equal(model.generate(**batch, **FEW, **options), expected)
            batch["input_ids"] = batch["input_ids"].int()
            for kind in (torch.int32, torch.float32, torch.bool):
                assert torch.equal(model.generate(**batch, attention_mask=mask.to(kind), **FEW, **options), expected)
        before, model.generation_config.eos_token_id = model.generation_config.eos_token_id, [2, 0]
        refuses("padding token 0 also ends a reply", lambda m=model, b=batch: m.generate(**b))
        model.generation_config.eos_token_id = before


@row("generate")
def a_streamer_of_one_reply_refuses_several(home: Home) -> None:
    from transformers import TextStreamer

    one, streamer = home.encode(home.chats[0]), TextStreamer(home.processor.tokenizer)
    for model, options in home.models:
        call: Any = {"streamer": streamer, "num_return_sequences": 2, "do_sample": True, **FEW, **options}
        refuses("batch size 1", lambda m=model, c=call: m.generate(**one, **c))


@row("generate")
def modes_of_torch_change_nothing(home: Home) -> None:
    import torch

    for model, options in home.models:
        call: Any = {**home.batch, **FEW, **options}
        plain = model.generate(**call)
        with torch.inference_mode():
            assert torch.equal(model.generate(**call), plain)
        model.train()
        assert torch.equal(model.generate(**call), plain)
        model.eval()
        model.gradient_checkpointing_enable()
        assert torch.equal(model.generate(**call), plain)
        model.gradient_checkpointing_disable()
        with torch.autocast("cpu", torch.bfloat16):
            assert model.generate(**call).shape[0] == 4
