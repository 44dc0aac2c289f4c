"""Text to BERT's word pieces and back, from the `vocab.txt` of a Tag2Text bundle."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import BertWordPieceTokenizer

from ramcore.errors import BundleError

_NEEDED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# What the English tokenizer set apart and a reader wants together again.
_JOINED = {f" {mark}": mark for mark in (".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re")} | {" ' ": "'"}


class Tokenizer:
    """Uncased BERT word pieces, with two added tokens after the file's: [DEC] starts texts to be written
    (`start_id`), [ENC] texts of tags (`tags_id`).
    """

    def __init__(self, path: str | Path) -> None:
        """path: a `vocab.txt`, one token per line. Raises `BundleError` where it cannot be that."""
        self._tokens = read_tokens(path)
        self._tokenizer = BertWordPieceTokenizer(vocab={token: n for n, token in enumerate(self._tokens)})
        self.start_id, self.tags_id = len(self._tokens), len(self._tokens) + 1
        self.pad_id, self.end_id = self._tokens.index("[PAD]"), self._tokens.index("[SEP]")
        self._silent = {self._tokens.index(token) for token in _NEEDED} | {self.start_id, self.tags_id}

    def __len__(self) -> int:
        """Tokens with the two added ones."""
        return len(self._tokens) + 2

    def prompt(self, text: str) -> list[int]:
        """Token ids of the beginning of a text to be written: [DEC] and the text, without an end mark."""
        return [self.start_id, *self._tokenizer.encode(text).ids[1:-1]]

    def tags(self, text: str, length: int) -> tuple[list[int], list[int]]:
        """Exactly `length` token ids of a text of tags, and 1 for tokens, 0 for padding.

        [ENC], the text and an end mark, cut or padded.
        """
        ids = [self.tags_id, *self._tokenizer.encode(text).ids[1:-1][: length - 2], self.end_id]
        padding = length - len(ids)
        return ids + [self.pad_id] * padding, [1] * len(ids) + [0] * padding

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special and unknown tokens."""
        text = " ".join(self._tokens[token] for token in ids if token not in self._silent)
        text = text.replace(" ##", "").strip()
        for apart, together in _JOINED.items():
            text = text.replace(apart, together)
        return text


def read_tokens(path: str | Path) -> list[str]:
    """The tokens of a `vocab.txt`. Raises `BundleError` for a file that is not one."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise BundleError(f"cannot read the tokenizer {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is not UTF-8: give the vocab.txt of bert-base-uncased") from error
    tokens = [line.rstrip("\r") for line in lines]
    if tokens[-1] == "":
        tokens.pop()
    missing = [token for token in _NEEDED if token not in tokens]
    if missing or len(set(tokens)) != len(tokens):
        why = f"{', '.join(missing)} missing" if missing else "a token occurs twice"
        raise BundleError(f"{path} is no BERT vocabulary ({why}): give the vocab.txt of bert-base-uncased")
    return tokens
