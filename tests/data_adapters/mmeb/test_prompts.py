"""The strings of the three profiles, and the exact prompts that items become."""

from __future__ import annotations

import re
from hashlib import sha256

import PIL.Image
import pytest
from tokenizers import Tokenizer

from data_adapters.mmeb.catalog import load_entries
from mmembed.evaluation.profiles import load_profile
from mmembed.inputs.items import PreparedItem
from mmembed.inputs.prompt import Placeholder, UserText, load_template
from mmembed.types import Image, MultimodalInput, Text, Video

# First 16 hex digits of the sha256 of the UTF-8 string (EV-6).
PINNED = {
    "VR1": "df3c463aac23692f",
    "VR2": "bbdfa18b4e2f567d",
    "VR3": "122d32c876c22f28",
    "VR4": "ce45a16853c50324",
    "VR5": "bc93ae3eb0800046",
    "VM1": "8d6052301d9ddc27",
    "VT": "319ca1b582abb11b",
    "VTc": "3d132b81d2f4f1f1",
    "DQ": "1e1833dbd08e3615",
    "DT": "f9b3f743d14722fa",
    "VQ": "b6ee781e2be85618",
}
# What specification 1.6 prints in full.
PRINTED = {
    "VC1": "Recognize the category of the video content.",
    "VC2": "What actions or object interactions are being performed by the person in the video?",
    "VC3": "What actions or objects interactions are the person in the video doing?",
    "VC4": "What activities or sports are being performed by the person in the video?",
    "VC5": "Recognize the breakfast type that the person is cooking in the video. ",
    "VM2": "Find the clip that corresponds to the given text:",
    "VM3": "Select the video clip that aligns with the given text and image:",
    "VM4": "Find the clip that corresponds to the given sentence and video segment:",
}
CANDIDATES = {"VT", "VTc", "DT"}


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", ["rzen", "vlm2vec"])
def test_the_prompts_are_those_that_the_specification_pins(name):
    prompts = load_profile(name).prompts
    assert {key: digest(prompts[key]) for key in PINNED} == PINNED
    assert {key: prompts[key] for key in PRINTED} == PRINTED
    assert set(prompts) == {*PINNED, *PRINTED}
    assert len(prompts["VQ"]) == 152 and prompts["VQ"].endswith(" ")


def test_the_port_ends_its_prompts_with_full_stops_and_has_none_for_candidates():
    profile = load_profile("qwen3vl")
    plain = load_profile("vlm2vec").prompts
    assert set(profile.prompts) == set(plain) - CANDIDATES
    for key, text in profile.prompts.items():
        if key != "VQ":
            assert text == (plain[key][:-1] + "." if plain[key].endswith(":") else plain[key])
    assert (len(profile.prompts["VQ"]), digest(profile.prompts["VQ"])) == (141, "b29082168d694784")
    assert plain["VQ"].startswith(profile.prompts["VQ"])
    assert not profile.document_instructions
    assert profile.num_frames == 64


@pytest.mark.parametrize("name", ["rzen", "vlm2vec", "qwen3vl"])
def test_every_data_set_finds_its_prompts_and_its_template(name):
    profile = load_profile(name)
    assert profile.template is not None
    assert load_template(profile.template).name == profile.template
    for entry in load_entries():
        wanted = {entry.query_prompt, *(v for k, v in entry.options.items() if "prompt" in k)}
        if profile.document_instructions:
            wanted.add(entry.document_prompt)
        if entry.card.modality != "image":
            assert wanted - {""} <= set(profile.prompts), entry.card.name
    questions = {e.card.name for e in load_entries() if e.card.group == "V-QA"}
    assert set(profile.letters) == questions


def test_raw_text_has_neither_turns_nor_markers_around_its_media():
    prompt = load_template("vlm2vec")
    clip = [Placeholder("video"), UserText(" What is it? a dog")]
    assert prompt.text(prompt.render(clip, role="query")) == "<|video_pad|> What is it? a dog"
    page = [Placeholder("image"), UserText("\nWhat?\n")]
    assert prompt.text(prompt.render(page)) == "<|image_pad|>\nWhat?\n"
    assert prompt.text(prompt.render([UserText("archery")])) == "archery"


def test_the_processor_gives_a_clip_one_placeholder_and_reads_its_last_character(tiny_checkpoint):
    from mmembed.encoder.checkpoint import load_encoder

    _, processor = load_encoder(tiny_checkpoint, inputs={"prompt": load_template("vlm2vec")})
    pictures = tuple(PIL.Image.new("RGB", (56, 56), color) for color in ("red", "green"))
    clip = MultimodalInput((Video(pictures), Text(" Find the clip:  a dog")))
    page = MultimodalInput((Image(pictures[0]), Text("\nWhat?\n")))
    with_clip, with_page, text = processor.prepare_all([clip, page, MultimodalInput.of("archery")])
    processor.close()
    assert [grid[0] for grid in with_clip.grid_thw] == [1]  # two frames are one step in time
    tokenizer = Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))
    assert written(tokenizer, with_clip) == "<|video_pad|> Find the clip:  a dog"
    assert written(tokenizer, with_page) == "<|image_pad|>\nWhat?\n"
    assert written(tokenizer, text) == "archery"


def written(tokenizer: Tokenizer, prepared: PreparedItem) -> str:
    """The tokens as a string, each run of pads as one."""
    text = tokenizer.decode(prepared.input_ids.tolist(), skip_special_tokens=False)
    return re.sub(r"(<\|(?:image|video)_pad\|>)+", r"\1", text)
