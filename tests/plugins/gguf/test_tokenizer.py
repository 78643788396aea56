"""Tokenizers from metadata give the ids of the tokenizers the metadata was written from."""

import json
import lzma

import gguf
import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from quantload.errors import CheckpointError, UnsupportedOperationError
from quantload_gguf import load_tokenizer, open_gguf
from quantload_gguf.vocabulary import tokenizer_files

TEXTS = [
    "Hello world",
    "def f(x: int) -> str:\n    return f'{x:>08d}'  # done\n\n\n\tpass\r\n",
    "I'm here, THEY'RE there; we'Ve gone. don't  DON'T",
    "naïve café Ärger Œuvre e\u0301 a\u030a",
    "汉字和日本語、한국어 тест",
    "🦙🦙 👩‍👩‍👧 x² ½ ∑∫ → …",
    "1 12 123 1234 12345 3.14159 1,000,000 0xFF",
    "   three   spaces\t\ttabs \n \n\n end   ",
    "a_b-c/d\\e|f~g`h ^^ $$ ++ <= >= != == // /* */",
    "",
    " ",
    "\n",
]


@pytest.fixture(scope="module")
def corpus(request) -> list[str]:
    folder = request.config.rootpath / "tests" / "data" / "stdlib-llama-4m"
    with lzma.open(folder / "calibration.jsonl.xz", "rt", encoding="utf-8") as file:
        lines = [json.loads(line)["text"] for line in file][:6]
    extra = [
        "汉字和日本語、한국어 тест 汉字和日本語",
        "naïve café Ärger Œuvre",
        "I'm don't WE'RE",
    ] * 20
    return [*lines, *extra, *TEXTS]


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SEED = LLAMA3.replace(r"{1,3}", "{1}").replace(r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}\r\n]+")


def split_by(*patterns: str):
    return pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
# What the `tokenizer.json` files of these models hold.
BYTE_LEVEL = {
    "gpt-2": (None, BYTES, False),
    "llama-bpe": (None, split_by(LLAMA3), True),
    "qwen2": (normalizers.NFC(), split_by(QWEN2), False),
    "gpt-4o": (None, split_by(GPT4O), False),
    "qwen35": (None, split_by(QWEN35), False),
    "seed-coder": (None, split_by(SEED), False),
    "superbpe": (None, split_by(r"\p{N}+", r"(?=(\d{3})+(?!\d))"), False),
    "tiny_aya": (None, split_by(r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O), False),
    "bloom": (None, split_by(r" ?[^(\s|[.,!?…。，、।۔،])]+"), False),  # noqa: RUF001  as it is
    "starcoder": (
        None,
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]),
        False,
    ),
    "command-r": (
        normalizers.NFC(),
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]),
        False,
    ),
    "falcon": (
        None,
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Punctuation("contiguous"),
                BYTES,
                pre_tokenizers.Digits(individual_digits=False),
                pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
            ]
        ),
        False,
    ),
}


def byte_level(name: str, corpus) -> Tokenizer:
    normalizer, splitter, ignore_merges = BYTE_LEVEL[name]
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    return tokenizer


def token_types(tokenizer: Tokenizer) -> list[int]:
    added = tokenizer.get_added_tokens_decoder()
    return [
        (gguf.TokenType.CONTROL if added[i].special else gguf.TokenType.USER_DEFINED)
        if i in added
        else gguf.TokenType.NORMAL
        for i in range(tokenizer.get_vocab_size())
    ]


def write_vocabulary(writer, tokenizer: Tokenizer, model: str, pre: str = "", scores=None) -> None:
    writer.add_tokenizer_model(model)
    if pre:
        writer.add_tokenizer_pre(pre)
    size = tokenizer.get_vocab_size()
    writer.add_token_list([tokenizer.id_to_token(i) for i in range(size)])
    writer.add_token_types(token_types(tokenizer))
    if scores is not None:
        writer.add_token_scores(scores)
    if model == "gpt2":
        merges = json.loads(tokenizer.to_str())["model"]["merges"]
        writer.add_token_merges([" ".join(pair) for pair in merges])


@pytest.mark.parametrize("pre", BYTE_LEVEL)
def test_byte_level_bpe(write_gguf, corpus, pre):
    original = byte_level(pre, corpus)
    path = write_gguf(fill=lambda w: write_vocabulary(w, original, "gpt2", pre))
    loaded = load_tokenizer(path)
    for text in [*TEXTS, "a<s>b</s> <think>c"]:
        ids = original.encode(text).ids
        assert loaded(text, add_special_tokens=False).input_ids == ids
        decoded = original.decode(ids, skip_special_tokens=False)
        assert loaded.decode(ids, skip_special_tokens=False) == decoded


@pytest.mark.parametrize(
    ("arch", "pre"),
    [("qwen2", "qwen2"), ("gpt2", "gpt-2"), ("falcon", "falcon"), ("llama", "llama-bpe")],
)
def test_old_files_without_a_pre_split_as_their_architecture_does(write_gguf, corpus, arch, pre):
    original = byte_level(pre, corpus)
    path = write_gguf(fill=lambda w: write_vocabulary(w, original, "gpt2"), arch=arch)
    loaded = load_tokenizer(path)
    for text in TEXTS:
        assert loaded(text, add_special_tokens=False).input_ids == original.encode(text).ids


def sentencepiece(corpus, prefix: bool) -> tuple[Tokenizer, list[float]]:
    """A BPE of SentencePiece's kind, as the `tokenizer.json` of Llama 2 has it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", "▁")
    begin = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*begin, spaces])
    special = ["<unk>", "<s>", "</s>"]
    pieces = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=1400, special_tokens=[*special, *pieces], limit_alphabet=150, show_progress=False
    )
    # Trained on words, or pieces would cross spaces.
    words = [f"▁{word}" for text in corpus for word in text.split(" ")]
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    bare.train_from_iterator(words, trainer)
    model = json.loads(bare.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer.model = models.BPE(
        vocab=model["vocab"],
        merges=merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer.add_special_tokens(special)
    tail = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *tail]
    )
    scores = [0.0] * tokenizer.get_vocab_size()
    for rank, (left, right) in enumerate(merges):
        scores[model["vocab"][left + right]] = -float(rank)
    return tokenizer, scores


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_bpe(write_gguf, corpus, prefix):
    original, scores = sentencepiece(corpus, prefix)

    def fill(writer):
        write_vocabulary(writer, original, "llama", "default", scores)
        writer.add_add_space_prefix(prefix)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)

    path = write_gguf(fill=fill)
    data = open_gguf(path).metadata
    kinds = [
        gguf.TokenType.BYTE if t.startswith("<0x") else k
        for t, k in zip(
            data["tokenizer.ggml.tokens"], data["tokenizer.ggml.token_type"], strict=True
        )
    ]
    kinds[0] = gguf.TokenType.UNKNOWN

    def fill_kinds(writer):
        fill(writer)
        writer.kv_data[0].pop("tokenizer.ggml.token_type")
        writer.add_token_types(kinds)

    loaded = load_tokenizer(write_gguf(fill=fill_kinds))
    for text in TEXTS:
        ids = original.encode(text, add_special_tokens=False).ids
        assert loaded(text, add_special_tokens=False).input_ids == ids
        assert loaded(text).input_ids == [1, *ids]
        assert loaded.decode(ids) == original.decode(ids)
    assert (loaded.bos_token, loaded.eos_token, loaded.unk_token) == ("<s>", "</s>", "<unk>")


@pytest.mark.parametrize("lowercase", [True, False])
def test_wordpiece(write_gguf, corpus, lowercase):
    original = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    original.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    original.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    original.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    original.train_from_iterator(corpus, trainer)
    original.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))

    def fill(writer):
        write_vocabulary(writer, original, "bert", "default")
        tokens = [original.id_to_token(i) for i in range(original.get_vocab_size())]
        marked = [t if t in special else t[2:] if t.startswith("##") else f"▁{t}" for t in tokens]
        writer.kv_data[0].pop("tokenizer.ggml.tokens")
        writer.add_token_list(marked)
        for name, number in (("cls", 2), ("seperator", 3), ("unknown", 1), ("mask", 4)):
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)

    loaded = load_tokenizer(write_gguf(fill=fill, arch="bert"))
    for text in TEXTS:
        assert loaded(text).input_ids == original.encode(text).ids
    pair = original.encode("one text", "and another")
    assert loaded("one text", "and another").input_ids == pair.ids
    assert loaded("one text", "and another").token_type_ids == pair.type_ids
    assert loaded.decode(pair.ids, skip_special_tokens=True) == original.decode(pair.ids)
    assert (loaded.cls_token, loaded.mask_token) == ("[CLS]", "[MASK]")


def test_unigram(write_gguf, corpus):
    original = Tokenizer(models.Unigram())
    # As T5 has it: spaces in a row count once, those at the end not at all.
    original.normalizer = normalizers.Sequence(
        [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    original.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    original.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=600,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    original.train_from_iterator(corpus, trainer)
    vocabulary = json.loads(original.to_str())["model"]["vocab"]

    def fill(writer):
        write_vocabulary(writer, original, "t5", "default", [score for _, score in vocabulary])
        writer.add_unk_token_id(2)
        writer.add_eos_token_id(1)

    loaded = load_tokenizer(write_gguf(fill=fill, arch="t5"))
    for text in TEXTS:
        ids = original.encode(text).ids
        assert loaded(text, add_special_tokens=False).input_ids == ids
        assert loaded(text).input_ids == [*ids, 1]
        assert loaded.decode(ids) == original.decode(ids)


def test_unigram_with_bytes_decodes_what_no_piece_covers(write_gguf):
    letters = ["<pad>", "</s>", "<unk>", "\u2581", "a", "b", *(f"<0x{i:02X}>" for i in range(256))]
    kinds = [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.UNKNOWN] + [gguf.TokenType.NORMAL] * 3

    def fill(writer):
        writer.add_tokenizer_model("t5")
        writer.add_token_list(letters)
        writer.add_token_scores([0.0, 0.0, 0.0, -1.0, -2.0, -3.0] + [0.0] * 256)
        writer.add_token_types([*kinds, *[gguf.TokenType.BYTE] * 256])

    loaded = load_tokenizer(write_gguf(fill=fill, arch="t5"))
    ids = loaded("  a \u20ac  b ", add_special_tokens=False).input_ids
    assert ids == [3, 4, 3, 6 + 0xE2, 6 + 0x82, 6 + 0xAC, 3, 5]
    assert loaded.decode(ids) == "a \u20ac b"
    assert loaded("a").input_ids[-1] == 1  # the usual number of the end


def test_unigram_with_some_bytes_and_no_unknown_token_is_refused(write_gguf):
    def fill(writer):
        writer.add_tokenizer_model("t5")
        writer.add_token_list(["a", "<0x41>"])
        writer.add_token_scores([-1.0, 0.0])
        writer.add_token_types([gguf.TokenType.NORMAL, gguf.TokenType.BYTE])

    with pytest.raises(CheckpointError, match="expected one of the tokens to be the unknown one"):
        load_tokenizer(write_gguf(fill=fill, arch="t5"))


def with_options(writer, original, **options):
    write_vocabulary(writer, original, "gpt2", "gpt-2")
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, value in options.items():
        getattr(writer, name)(value)


def test_bos_and_eos_are_added_where_the_file_says_so(write_gguf, corpus):
    original = byte_level("gpt-2", corpus)
    ids = original.encode("Hello").ids
    for bos in (False, True):
        for eos in (False, True):
            path = write_gguf(
                fill=lambda w, b=bos, e=eos: with_options(
                    w, original, add_add_bos_token=b, add_add_eos_token=e
                )
            )
            found = load_tokenizer(path)("Hello").input_ids
            assert found == [0] * bos + ids + [1] * eos


def test_llama_3_begins_with_bos_unless_told_otherwise(write_gguf, corpus):
    original = byte_level("llama-bpe", corpus)

    def fill(writer):
        write_vocabulary(writer, original, "gpt2", "llama-bpe")
        writer.add_bos_token_id(0)

    assert load_tokenizer(write_gguf(fill=fill))("Hi").input_ids[0] == 0


def test_roberta_frames_every_text_and_separates_two(write_gguf, corpus):
    original = byte_level("gpt-2", corpus)
    original.post_processor = processors.RobertaProcessing(
        ("</s>", 1), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )

    def fill(writer, flags=True):
        write_vocabulary(writer, original, "gpt2", "roberta-bpe")
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_uint32("tokenizer.ggml.token_type_count", 1)
        if flags:
            writer.add_add_bos_token(True)
            writer.add_add_eos_token(True)
            writer.add_add_sep_token(True)

    for flags in (True, False):
        loaded = load_tokenizer(write_gguf(fill=lambda w, f=flags: fill(w, f), arch="bert"))
        for text in TEXTS:
            assert loaded(text).input_ids == original.encode(text).ids
        pair = loaded("one text", "and another")
        assert pair.input_ids == original.encode("one text", "and another").ids
        assert set(pair.get("token_type_ids", [0])) == {0}
        assert (loaded.cls_token, loaded.sep_token) == ("<s>", "</s>")


def test_sentencepiece_files_that_do_not_number_their_special_tokens(write_gguf, corpus):
    original, scores = sentencepiece(corpus, prefix=True)

    def fill(writer):
        write_vocabulary(writer, original, "llama", "default", scores)
        kinds = writer.kv_data[0]["tokenizer.ggml.token_type"].value
        kinds[:3] = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]

    loaded = load_tokenizer(write_gguf(fill=fill))
    assert (loaded.bos_token, loaded.eos_token, loaded.unk_token) == ("<s>", "</s>", "<unk>")
    assert loaded("a").input_ids[0] == 1


def test_deepseek_splits_letters_with_case_from_others():
    from quantload_gguf.vocabulary.splitting import SPLITTINGS, pre_tokenizer

    steps = pre_tokenizer(SPLITTINGS["deepseek-llm"])
    text = "Ab ÉçÆ\u01bb\u10d0\u10a0汉字12a!?"  # a letter without case, two Georgian ones
    parts = [text[slice(*span)] for _, span in steps.pre_tokenize_str(text)]
    assert parts == ["Ab", " ÉçÆ", "\u01bb", "\u10d0", "\u10a0", "汉字", "12", "a", "!?"]


def test_chat_templates(write_gguf, corpus):
    original = byte_level("gpt-2", corpus)
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    path = write_gguf(fill=lambda w: with_options(w, original, add_chat_template=template))
    chat = [{"role": "user", "content": "Hi"}]
    assert load_tokenizer(path).apply_chat_template(chat, tokenize=False) == "<user>Hi"
    several = [
        {"name": "default", "template": template},
        {"name": "tool_use", "template": "tools: " + template},
    ]
    path = write_gguf(fill=lambda w: with_options(w, original, add_chat_template=several))
    loaded = load_tokenizer(path)
    assert loaded.apply_chat_template(chat, tokenize=False) == "<user>Hi"
    found = loaded.apply_chat_template(chat, chat_template="tool_use", tokenize=False)
    assert found == "tools: <user>Hi"


def test_a_tokenizer_json_in_the_file_is_used_as_it_is(write_gguf, corpus):
    original = byte_level("starcoder", corpus)

    def fill(writer):
        with_options(writer, byte_level("gpt-2", corpus))
        writer.add_string("tokenizer.huggingface.json", original.to_str())

    loaded = load_tokenizer(write_gguf(fill=fill))
    for text in TEXTS:
        assert loaded(text, add_special_tokens=False).input_ids == original.encode(text).ids


def test_the_files_of_a_folder_load_again(write_gguf, corpus, tmp_path):
    original = byte_level("qwen2", corpus)
    path = write_gguf(fill=lambda w: with_options(w, original))
    with open_gguf(path) as file:
        folder = tokenizer_files(file, tmp_path / "out")
    again, loaded = AutoTokenizer.from_pretrained(folder), load_tokenizer(path)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    for text in TEXTS:
        assert again(text).input_ids == loaded(text).input_ids
    assert (again.bos_token, again.eos_token) == ("<s>", "</s>")


def test_rows_that_no_token_has_are_no_tokens(write_gguf, corpus):
    original = byte_level("gpt-2", corpus)

    def fill(writer):
        write_vocabulary(writer, original, "gpt2", "gpt-2")
        values = writer.kv_data[0]
        values["tokenizer.ggml.tokens"].value += ["[PAD901]", "[PAD902]"]
        values["tokenizer.ggml.token_type"].value += [gguf.TokenType.UNUSED] * 2

    loaded = load_tokenizer(write_gguf(fill=fill))
    assert len(loaded) == original.get_vocab_size()
    assert loaded("[PAD901]").input_ids == original.encode("[PAD901]").ids


@pytest.mark.parametrize(
    ("fill", "kind", "says"),
    [
        (lambda w: None, CheckpointError, "holds no tokenizer"),
        (lambda w: w.add_tokenizer_model("none"), CheckpointError, "holds no tokenizer"),
        (
            lambda w: (w.add_tokenizer_model("rwkv"), w.add_token_list(["a"])),
            UnsupportedOperationError,
            "the kind 'rwkv'",
        ),
        (
            lambda w: (
                w.add_tokenizer_model("gpt2"),
                w.add_token_list(["a"]),
                w.add_tokenizer_pre("x"),
            ),
            UnsupportedOperationError,
            "splits text as 'x'",
        ),
        (
            lambda w: (w.add_tokenizer_model("gpt2"), w.add_token_list(["a"])),
            CheckpointError,
            "tokenizer.ggml.merges to hold pairs",
        ),
        (
            lambda w: (w.add_tokenizer_model("llama"), w.add_token_list(["a"])),
            CheckpointError,
            "expected tokenizer.ggml.scores",
        ),
        (
            lambda w: (
                w.add_tokenizer_model("llama"),
                w.add_token_list(["a"]),
                w.add_token_scores([1.0, 2.0]),
            ),
            CheckpointError,
            "expected 1 entries in tokenizer.ggml.scores",
        ),
    ],
)
def test_what_makes_no_tokenizer_says_why(write_gguf, fill, kind, says):
    path = write_gguf(fill=fill)
    with pytest.raises(kind, match=says) as caught:
        load_tokenizer(path)
    assert str(path) in str(caught.value)
