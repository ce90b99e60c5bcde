"""Rows: the processor."""

from __future__ import annotations

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
    single = home.processor(text="no image at all")
    assert single["input_ids"].shape[0] == 1 and "pixel_values" not in single
    lists = home.processor(text=["a", "b c d"], padding=False, return_tensors=None)
    assert [len(ids) for ids in lists["input_ids"]] == [len(types) for types in lists["mm_token_type_ids"]]


@row("processor")
def images_come_from_files_too(home: Home) -> None:
    import torch

    path = str(home.folder / "image.png")
    home.images[0].save(path)
    content = [{"type": "image", "url": path}, {"type": "text", "text": "How many circles are there?"}]
    found = home.encode([{"role": "user", "content": content}])
    assert torch.equal(found["pixel_values"], home.encode(home.chats[0])["pixel_values"])


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
    refuses("got none", lambda: processor(images=[image]))
    refuses("video or audio", lambda: processor(text="x", videos=[[image]]))
    refuses("string or a list of strings", lambda: processor(text=[1], images=None))
    refuses("answers alone", lambda: processor([], padding=True), TypeError)
