"""Token ids of awkward texts, as transformers' CLIPTokenizer gives them.

usage: tokenizer.py [N]        N texts (200)

Reads the built-in model's tokenizer, kept in loaders/tests/fixtures/tokenizer, and writes ids.json beside it:
    texts   a list of {"text", "ids", "padded"}: ids with begin and end token; cut and padded to LENGTH
    sd2     the same texts' "padded" when "!" pads, as in Stable Diffusion 2
"""

import json
import pathlib
import random
import shutil
import sys
import tempfile

from transformers import CLIPTokenizer

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "loaders" / "tests" / "fixtures" / "tokenizer"
LENGTH = 16

BY_HAND = [
    "", " ", "a", "a red apple", "A RED  Apple!!", "it's we'll I'VE don'T 'S 's '", "3D glossy emoji of a red apple",
    "new\nline\ttab\r\n", "1girl, 2boys 3.14", "((masterpiece:1.2)), [ugly]", "caf\u00e9 cafe\u0301 \u1e9b\u0323",
    "\u0130I\u0131 \u03a3\u03b1\u03a3 \u1e9e \ufb01", "\u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4 \u1112\u1161\u11ab",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea", "\u0645\u0631\u062d\u0628\u0627 \u202eabc",
    "a\u0000b \u0007 \u007f \u0085 \u00a0 \u00ad \u200b \u2028 \u2029 \u3000 \ufeff \uffff",
    "<|endoftext|>", "x<|startoftext|>y <|endoftext|><|endoftext|>z", "<|STARTOFTEXT|> <|EndOfText|>!", "!<|ENDOFTEXT|>!",
    "<|endoftext", "endoftext|>", "<||>", "</w> a</w>", "\u2167\u2177\u00bd\u00b2\u0663\u0967\u3007", "a_b-c/d\\e@f#g$h%i^j&k*l",
    "hi!", "!", "! !! !!!", "a!b", "0" * 40, "x" * 300, "\u00e9" * 100, "\U0001f431" * 50, "a " * 200,
    "\U000e0041 \U0010ffff \ue000", "\u1f88\u01c5\u1e96 \u212a\u2126\u212b", "\u0f71\u0f72\u0f74 \u0344 \u0958",
]  # fmt: skip
RANGES = [
    (0x20, 0x7F), (0x20, 0x7F), (0x20, 0x7F), (0x00, 0x250), (0x250, 0x600), (0x600, 0x1100), (0x1E00, 0x2100),
    (0x2100, 0x2C00), (0x3000, 0x3200), (0x4E00, 0x5000), (0xAC00, 0xAD00), (0xF900, 0xFFFF), (0x1F300, 0x1FAFF),
]  # fmt: skip


def random_text(rng: random.Random, words: list[str]) -> str:
    """A mixture of the vocabulary's words, special tokens and characters of a few scripts."""
    parts = []
    for _ in range(rng.randrange(1, 12)):
        kind = rng.random()
        if kind < 0.4:
            parts.append(rng.choice(words))
        elif kind < 0.45:
            parts.append(rng.choice(["<|endoftext|>", "<|startoftext|>", "<|ENDOFTEXT|>", "'ll", "'S"]))
        else:
            low, high = rng.choice(RANGES)
            parts.append("".join(chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 8))))
        parts.append(rng.choice(["", " ", " ", "\t", "\u3000"]))
    return "".join(parts)


def padded(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    return tokenizer(text, padding="max_length", max_length=LENGTH, truncation=True).input_ids


def with_sd2_padding(folder: pathlib.Path) -> CLIPTokenizer:
    """The same vocabulary with Stable Diffusion 2's map of special tokens."""
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(FOLDER / name, folder / name)
    normalised = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    begin, end = ({"content": content, **normalised} for content in ("<|startoftext|>", "<|endoftext|>"))
    roles = {"bos_token": begin, "eos_token": end, "pad_token": "!", "unk_token": end}
    (folder / "special_tokens_map.json").write_text(json.dumps(roles))
    return CLIPTokenizer.from_pretrained(folder)


def main() -> None:
    n_texts = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    rng = random.Random(0)
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER)
    words = [token.removesuffix("</w>") for token in tokenizer.get_vocab() if token.endswith("</w>")]
    words = sorted(word for word in words if word.isascii())
    texts = (BY_HAND + [random_text(rng, words) for _ in range(n_texts)])[:n_texts]
    with tempfile.TemporaryDirectory() as folder:
        sd2 = with_sd2_padding(pathlib.Path(folder))
        recorded = {
            "length": LENGTH,
            "texts": [
                {"text": text, "ids": tokenizer(text).input_ids, "padded": padded(tokenizer, text)} for text in texts
            ],
            "sd2": [padded(sd2, text) for text in texts],
        }
    (FOLDER / "ids.json").write_text(json.dumps(recorded, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
