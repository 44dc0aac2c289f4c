"""Beam search over tokens, with the rules of Hugging Face transformers' `generate` (4.40, its defaults).

Those rules are what the released captions were made with: a finished text is scored by its log-probability
divided by the number of tokens after the prompt, and a search ends when no open text can score higher.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor | None], Tensor]
"""(tokens int64 [R, L], rows int64 [R] or None) to the next token's logits, float32 [R, vocabulary].

The tokens continue the R texts so far, after these were rearranged: text r goes on from what was text rows[r].
"""

# Score of the beams that are copies at the start: they lose against everything the first beam offers.
_NEVER = -1e9


@dataclass(frozen=True)
class BeamRules:
    """beams: texts kept open per image; min_length, max_length: tokens of a text, prompt and end mark included."""

    beams: int = 3
    min_length: int = 10
    max_length: int = 50

    def __post_init__(self) -> None:
        for name in ("beams", "min_length", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")
        if self.min_length > self.max_length:
            raise ValueError(f"min_length is {self.min_length}: give at most max_length, {self.max_length}")


@dataclass
class _Finished:
    """The best finished texts of one image, as (score, tokens)."""

    prompt_length: int
    keep: int
    texts: list[tuple[float, list[int]]] = field(default_factory=list)
    closed: bool = False

    def add(self, log_probability: float, tokens: list[int], length: int) -> None:
        """length: tokens of the text with its end mark, which `tokens` is without."""
        score = log_probability / (length - self.prompt_length)
        self.texts.append((score, tokens))
        # A stable order, so that of equal scores the older stays.
        self.texts = sorted(self.texts, key=lambda text: -text[0])[: self.keep]

    def close_if_beaten(self, best_open: float, length: int) -> None:
        """No open text, best log-probability `best_open` at `length` tokens, can enter the list: end."""
        full = len(self.texts) == self.keep
        self.closed |= full and self.texts[-1][0] >= best_open / (length - self.prompt_length)


@torch.inference_mode()
def beam_search(step: Step, prompt: Tensor, end_id: int, rules: BeamRules) -> list[list[int]]:
    """The best text per image, as token ids with the prompt, and with the end mark unless it was cut off.

    step: see `Step`; it is called with B · beams texts, those of an image together. prompt: int64 [B, P].
    Raises ValueError where the prompt leaves no room.
    """
    images, prompt_length = prompt.shape
    if prompt_length >= rules.max_length:
        raise ValueError(f"max_length is {rules.max_length}: give more than the prompt's {prompt_length} tokens")
    beams, device = rules.beams, prompt.device
    tokens = prompt.repeat_interleave(beams, dim=0)
    scores = torch.full((images, beams), _NEVER, device=device)
    scores[:, 0] = 0
    finished = [_Finished(prompt_length, beams) for _ in range(images)]
    new, rows = tokens, None
    while tokens.shape[1] < rules.max_length:
        log_probabilities = step(new, rows).log_softmax(dim=-1)
        if tokens.shape[1] < rules.min_length:
            log_probabilities[:, end_id] = -torch.inf
        words = log_probabilities.shape[-1]
        offers = (log_probabilities.view(images, beams, words) + scores[..., None]).flatten(1)
        # Of twice as many offers at most half end the text, so enough to go on with are left.
        best, places = offers.topk(2 * beams, dim=1)
        choice = [
            _advance(best[image].tolist(), places[image].tolist(), words, end_id, tokens, image, finished[image])
            for image in range(images)
        ]
        scores = torch.tensor([[c[0] for c in chosen] for chosen in choice], device=device)
        rows = torch.tensor([c[1] for chosen in choice for c in chosen], device=device)
        new = torch.tensor([[c[2]] for chosen in choice for c in chosen], device=device)
        tokens = torch.cat([tokens[rows], new], dim=1)
        if all(texts.closed for texts in finished):
            break
    return [_best(finished[image], tokens, scores, image, end_id, rules) for image in range(images)]


def _advance(
    scores: list[float], places: list[int], words: int, end_id: int, tokens: Tensor, image: int, finished: _Finished
) -> list[tuple[float, int, int]]:
    """The beams of one image after this step, as (log-probability, row that it goes on from, token)."""
    beams = finished.keep
    if finished.closed:
        return [(0.0, image * beams, end_id)] * beams
    length = tokens.shape[1] + 1
    chosen: list[tuple[float, int, int]] = []
    for rank, (score, place) in enumerate(zip(scores, places, strict=True)):
        row, token = image * beams + place // words, place % words
        if token != end_id:
            chosen.append((score, row, token))
        elif rank < beams:  # an end counts only where it is among the best
            finished.add(score, tokens[row].tolist(), length)
        if len(chosen) == beams:
            break
    finished.close_if_beaten(scores[0], length)
    return chosen


def _best(finished: _Finished, tokens: Tensor, scores: Tensor, image: int, end_id: int, rules: BeamRules) -> list[int]:
    if not finished.closed:
        for beam, score in enumerate(scores[image].tolist()):
            finished.add(score, tokens[image * rules.beams + beam].tolist(), tokens.shape[1])
    text = finished.texts[0][1]
    return [*text, end_id] if len(text) < rules.max_length else text
