"""A small byte-pair vocabulary of CLIP's kind, from a short list of words.

tokenizers' own trainer breaks ties by hash order and so writes another vocabulary on each run.
"""

import collections
import json
import pathlib

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

WORDS = """
a an the of on in at with and red green blue yellow black white small big old bright dark round quiet photograph
painting drawing sketch apple house lighthouse river mountain tree cat dog fish boat bridge window garden morning dusk
night rain snow sun moon star light shadow water stone wooden glass paper blurry noisy ugly watercolour oil pencil
""".split()


def train_merges(n_merges: int) -> list[tuple[str, str]]:
    """The `n_merges` most frequent merges in order; short words count more often, ties go to the first in the alphabet."""
    words = {word: [*word[:-1], word[-1] + "</w>"] for word in WORDS}
    merges = []
    for _ in range(n_merges):
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        for word, symbols in words.items():
            for pair in zip(symbols, symbols[1:]):
                counts[pair] += 1 + 20 // len(word)
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        words = {word: merged(symbols, best) for word, symbols in words.items()}
    return merges


def merged(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """`symbols` with every occurrence of `pair` joined, from the left."""
    joined: list[str] = []
    for symbol in symbols:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined


def write(folder: pathlib.Path, n_merges: int, model_max_length: int) -> CLIPTokenizer:
    """Write vocab.json and merges.txt to `folder`; -> the tokenizer that transformers makes of them.

    CLIP's numbering: bytes, bytes that end a word, merges in order, the two special tokens.
    """
    merges = train_merges(n_merges)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(byte + "</w>" for byte in alphabet), *(left + right for left, right in merges)]
    ids = {token: token_id for token_id, token in enumerate([*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=model_max_length)
