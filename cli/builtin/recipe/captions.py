"""Captions as the text encoder reads them: a small BPE in CLIP's manner, and
the forms in which a caption is put to the model."""

import json
import os

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

import data

POSITIONS = 32
VOCABULARY = 2048
CLIP_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

# how often each of forms() is used
FORM_WEIGHTS = (0.7, 0.15, 0.06, 0.06, 0.03)


def article(words):
    """`words` with its indefinite article."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def forms(row, aliases, rng):
    """The prompts that stand for one picture, in the order of FORM_WEIGHTS.

    The prompt without a style belongs to the first set alone: a prompt that
    names none then has one style and not a mixture of three."""
    style, caption = row["style"], row["caption"]
    words = rng.choice(aliases) if aliases else caption
    hints = ", ".join(rng.permutation(row["keywords"] or [caption])[:2])
    canonical = f"{style} of {article(caption)}"
    return [
        canonical,
        f"{style} of {article(str(words))}",
        article(caption) if row["set"] == next(iter(data.STYLES)) else canonical,
        f"{style} of {caption}",
        f"{style} of {caption}, {hints}",
    ]


def train_tokenizer(rows, folder):
    """Learn CLIP's BPE on the captions and write vocab.json and merges.txt."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_PATTERN), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    corpus = [" ".join([row["caption"]] * 4 + row["keywords"]) for row in rows]
    corpus += [f"{style} of a an" for style in data.STYLES.values()] * 300
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(alphabet) - 2,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)

    # CLIP's numbering: bytes, bytes that end a word, merges, the two specials
    vocabulary = alphabet + [letter + "</w>" for letter in alphabet]
    known, kept = set(vocabulary), []
    for a, b in json.loads(bpe.to_str())["model"]["merges"]:
        if len(vocabulary) == VOCABULARY - 2:
            break
        if a in known and b in known:
            kept.append((a, b))
            if a + b not in known:
                vocabulary.append(a + b)
                known.add(a + b)
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/vocab.json", "w") as file:
        json.dump({token: i for i, token in enumerate(vocabulary)}, file, ensure_ascii=False)
    with open(f"{folder}/merges.txt", "w") as file:
        file.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in kept))


def tokenizer(rows, folder):
    """The tokenizer in `folder`, learnt first if it is not there yet."""
    if not os.path.exists(f"{folder}/vocab.json"):
        train_tokenizer(rows, folder)
    return CLIPTokenizer(f"{folder}/vocab.json", f"{folder}/merges.txt", model_max_length=POSITIONS)


def ids(tokenizer, texts):
    """Token ids [len(texts), POSITIONS], padded with the end token."""
    return tokenizer(
        texts, padding="max_length", truncation=True, max_length=POSITIONS, return_tensors="pt"
    ).input_ids
