"""Rows: the processor."""

from __future__ import annotations

from typing import Any

from tests.model.home.rows import Home, refuses, reply, row, user


@row("processor")
def it_is_a_processor_of_transformers(home: Home) -> None:
    from transformers import ProcessorMixin
    from transformers.feature_extraction_utils import BatchFeature

    assert isinstance(home.processor, ProcessorMixin) and "AMVLProcessor" in repr(home.processor)
    assert isinstance(home.batch, BatchFeature)
    names = {"input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw"}
    assert set(home.batch) == names == set(home.processor.model_input_names)


@row("processor")
def messages_are_encoded_as_questions_are(home: Home) -> None:
    import torch

    from amvl_model import VisualQuestion

    for prompt, images in (("How many?", home.images[:1]), ("Which one?", home.images)):
        question = VisualQuestion(id="q", images=tuple(images), prompt=prompt, answer_text="(A)")
        expected, found = home.processor([question], answers=False), home.encode(user(prompt, *images))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        assert "answer_ids" in home.processor([question])


@row("processor")
def texts_and_images_are_encoded_as_messages_are(home: Home) -> None:
    import torch

    texts = home.processor.apply_chat_template(home.chats, add_generation_prompt=True)
    assert isinstance(texts, list) and texts[1].count("<|image_pad|>") == 2
    nested = [home.images[:1], home.images, home.images[:1], []]
    for images in (nested, [image for each in nested for image in each]):
        found = home.processor(text=texts, images=images, padding=True, return_tensors="pt")
        assert all(torch.equal(found[name], home.batch[name]) for name in home.batch)
    for form in (home.images[0], home.images[:1], [home.images[:1]]):
        found = home.processor(text=texts[0], images=form)
        assert found["input_ids"].shape[0] == 1 and len(found["image_grid_thw"]) == 1
    refuses("got 1 for 2", lambda: home.processor(text=texts[1], images=home.images[0]))
    for nothing in (None, [], [[]]):
        assert "pixel_values" not in home.processor(text=["no image at all"], images=nothing)
    single = home.processor(text="no image at all")
    assert single["input_ids"].shape[0] == 1 and "pixel_values" not in single
    lists = home.processor(text=["a", "b c d"], padding=False, return_tensors=None)
    assert [len(ids) for ids in lists["input_ids"]] == [len(types) for types in lists["mm_token_type_ids"]]


@row("processor")
def images_come_in_every_form_that_transformers_knows(home: Home) -> None:
    import base64
    from pathlib import Path

    import numpy as np
    import torch

    path, image = home.folder / "image.png", home.images[0]
    image.save(path)
    text = base64.b64encode(path.read_bytes()).decode()
    array = np.asarray(image)
    forms: list[dict[str, Any]] = [
        {"image": image},
        {"image": str(path)},
        {"image": Path(path)},
        {"path": str(path)},
        {"url": str(path)},
        {"url": path.as_uri()},
        {"url": f"data:image/png;base64,{text}"},
        {"image": text},
        {"base64": text},
        {"image": path.read_bytes()},
        {"image": array},
        {"image": torch.from_numpy(array.copy()).permute(2, 0, 1)},
    ]
    expected = home.encode(home.chats[0])
    for form in forms:
        content = [{"type": "image", **form}, {"type": "text", "text": "How many circles are there?"}]
        found = home.encode([{"role": "user", "content": content}])
        assert all(torch.equal(found[name], expected[name]) for name in expected), form.keys()
    content[0] = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}}
    found = home.encode([{"role": "user", "content": content}])
    assert torch.equal(found["pixel_values"], expected["pixel_values"])
    refuses("no such file", lambda: home.encode(user("x", "/no/such/image.png")), FileNotFoundError)
    refuses("8-bit values .* got float", lambda: home.encode(user("x", array / 255.0)))
    refuses("cannot be fetched", lambda: home.encode(user("x", "http://127.0.0.1:9/image.png")), ConnectionError)
    refuses("not valid base64|cannot be read", lambda: home.encode(user("x", "data:image/png;base64,AAAA")))


@row("processor")
def parts_that_the_template_would_drop_are_refused(home: Home) -> None:
    image = home.images[0]
    for part, message in (
        ({"type": "video", "video": [image]}, "got video; the model was trained on images alone"),
        ({"type": "audio", "audio": "x.wav"}, "got audio"),
        ({"type": "img", "img": image}, "got the type 'img' with type, img"),
        ({"image": image}, "got the type None"),
        ({"type": "text", "content": "x"}, "got the type 'text' with type, content"),
        ("text", "got 'text'"),
    ):
        chat = [{"role": "user", "content": [part]}]
        refuses(message, lambda c=chat: home.encode(c))
        refuses(message, lambda c=chat: home.processor.apply_chat_template([home.chats[0], c]))
    refuses("no documents", lambda: home.processor.apply_chat_template(home.chats[0], documents=[{"text": "x"}]))
    refuses("no tools", lambda: home.processor.apply_chat_template(home.chats[0], tools=[{"type": "function"}]))


@row("processor")
def tensors_are_numpy_lists_or_torch_as_wanted(home: Home) -> None:
    import numpy as np
    import torch

    for found in (
        home.encode(home.chats, return_tensors="np"),
        home.processor(
            text=home.processor.apply_chat_template(home.chats, add_generation_prompt=True),
            images=[home.images[0], *home.images, home.images[0]],
            return_tensors="np",
        ),
    ):
        assert all(isinstance(value, np.ndarray) for value in found.values())
        assert all(np.array_equal(found[name], home.batch[name].numpy()) for name in home.batch)
    assert home.encode(home.chats[0]).to("cpu", torch.bfloat16)["pixel_values"].dtype == torch.bfloat16


@row("processor")
def the_generation_prompt_and_an_unfinished_reply_are_options(home: Home) -> None:
    chat = user("How many?")
    without = home.processor.apply_chat_template(chat)
    prompted = home.processor.apply_chat_template(chat, add_generation_prompt=True)
    assert prompted == without + "<|im_start|>assistant\n"
    begun = home.processor.apply_chat_template([*chat, reply("(")], continue_final_message=True)
    assert begun == prompted + "("
    ids = home.encode([*chat, reply("(")], add_generation_prompt=False, continue_final_message=True)
    assert home.amvl.generate(**ids, max_new_tokens=2).shape == (1, 2)


@row("processor")
def replies_are_decoded_with_and_without_special_tokens(home: Home) -> None:
    processor = home.processor
    ids = processor.encode_answer("(B)")
    assert processor.decode(ids) == "(B)" and processor.decode(ids.unsqueeze(0)) == ["(B)"]
    assert processor.decode(ids, skip_special_tokens=False) == "(B)<|im_end|>"
    assert processor.batch_decode(ids.unsqueeze(0), skip_special_tokens=True) == ["(B)"]
    assert processor.batch_decode([ids.tolist()]) == ["(B)<|im_end|>"]
    assert processor.decode(ids.new_zeros(2, 0)) == ["", ""]


@row("processor")
def it_is_saved_beside_a_model_with_its_template(home: Home) -> None:
    from transformers import AutoProcessor

    from amvl_model import AMVLProcessor

    folder = home.folder / "saved"
    template = home.processor.chat_template + "{# changed #}"
    AMVLProcessor(home.processor.tokenizer, home.processor.image_processor, chat_template=template).save_pretrained(
        folder
    )
    names = ["chat_template.jinja", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    home.amvl.config.save_pretrained(folder)
    again = AutoProcessor.from_pretrained(folder, padding_side="left")
    assert (again.chat_template, again.tokenizer.padding_side) == (template, "left")
    smaller = AutoProcessor.from_pretrained(folder, max_pixels=3136)
    assert dict(smaller.image_processor.size)["longest_edge"] == 3136


@row("processor")
def bad_input_is_refused_in_one_sentence(home: Home) -> None:
    processor, image = home.processor, home.images[0]
    for messages in ([], [{"role": "system", "content": "x"}], [reply("x")]):
        refuses("expected a message of the role 'user'", lambda m=messages: processor.apply_chat_template(m))
    refuses("conversation 2", lambda: processor.apply_chat_template([home.chats[0], [reply("x")]]))
    refuses("got 1 for 0", lambda: processor(text="no place for it", images=[image]))
    refuses("got 0 for 1", lambda: processor(text="<|image_pad|>"))
    refuses("got 2 for 1", lambda: processor(text=["<|image_pad|>", "x"], images=[[image], [image]]))
    swapped = [[image], []]
    refuses(r"it names, \[0, 1\], got \[1, 0\]", lambda: processor(text=["x", "<|image_pad|>"], images=swapped))
    refuses("got none", lambda: processor(images=[image]))
    refuses("video or audio", lambda: processor(text="x", videos=[[image]]))
    for wrong in ([1], []):
        refuses("string or a list of strings", lambda w=wrong: processor(text=w, images=None))
    refuses("got None among them", lambda: processor(text=["x", "<|image_pad|>"], images=[None, image]))
    refuses("answers alone", lambda: processor([], padding=True), TypeError)
    refuses("upload to org/x: the Hub did not answer", lambda: push(processor), ConnectionError)


def push(processor: Any) -> None:
    """Upload while the Hub does not answer."""
    from unittest import mock

    from huggingface_hub import HfApi

    with mock.patch.object(HfApi, "create_repo", side_effect=OSError("no route to host")):
        processor.push_to_hub("org/x")
