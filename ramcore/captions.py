"""Captions of images from their tags, with Tag2Text."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ramcore.beam import BeamRules, beam_search
from ramcore.tag2text import Tag2Text
from ramcore.tokenizer import Tokenizer

PROMPT = "a picture of "

# Length in tokens that the text of the tags is cut or padded to, as in training.
_TAG_TOKENS = 40


def join_tags(tags: Sequence[str]) -> str:
    """The text that stands for these tags: "cloud | sky"."""
    return " | ".join(tags)


def given_tags(text: str) -> str:
    """The text that stands for tags that a person wrote with commas: "cloud,sky" becomes "cloud | sky"."""
    return text.replace(",", " | ")


class Captioner:
    """Writes captions; made from a model and the tokenizer of its bundle."""

    def __init__(self, model: Tag2Text, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._prompt = tokenizer.prompt(PROMPT)

    def captions(self, image_embeds: Tensor, tags: Sequence[str], rules: BeamRules | None = None) -> list[str]:
        """One caption per image.

        image_embeds: [B, 1 + T, C] of the model's `image_embeds`; tags: B texts, see `join_tags`; rules: None
        is 3 beams and 10 to 50 tokens, the released model's setting. An image's caption does not depend on the
        others (the reference repeats the first image's caption). Raises ValueError where the lengths differ.
        """
        # The prompt is the beginning of every text; the reference cuts as many characters off.
        return [self.tokenizer.text(ids)[len(PROMPT) :] for ids in self.caption_ids(image_embeds, tags, rules)]

    @torch.inference_mode()
    def caption_ids(self, image_embeds: Tensor, tags: Sequence[str], rules: BeamRules | None = None) -> list[list[int]]:
        """As `captions`, as token ids with the prompt's."""
        if len(tags) != len(image_embeds):
            raise ValueError(f"{len(tags)} texts of tags for {len(image_embeds)} images: give one per image")
        if not len(tags):
            return []
        rules = rules or BeamRules()
        encoded = [self.tokenizer.tags(text, _TAG_TOKENS) for text in tags]
        tokens, mask = (torch.tensor(part, device=image_embeds.device) for part in zip(*encoded, strict=True))
        memory = self.model.encode_tags(tokens, mask, image_embeds)
        decoder = self.model.text_decoder
        state = decoder.start(memory.repeat_interleave(rules.beams, dim=0))

        def step(new: Tensor, rows: Tensor | None) -> Tensor:
            if rows is not None:
                state.select(rows)
            logits: Tensor = decoder(new, state)
            return logits

        prompt = torch.tensor([self._prompt] * len(tags), device=image_embeds.device)
        return beam_search(step, prompt, self.tokenizer.end_id, rules)
