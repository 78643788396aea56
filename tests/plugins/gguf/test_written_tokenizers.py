"""The tokenizer of a folder goes into metadata and comes out giving the same ids."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from quantload_gguf import load_tokenizer
from quantload_gguf.container import Field, ValueType
from quantload_gguf.saving.draft import Draft
from quantload_gguf.saving.tokenizer import tokenizer_fields

_path = Path(__file__).with_name("test_tokenizer.py")
_spec = importlib.util.spec_from_file_location("gguf_tokenizers", _path)
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)
corpus = made.corpus  # the fixture


def written(tokenizer: Tokenizer, folder: Path, config=None, **roles) -> tuple:
    """The tokenizer of a folder, and the one that its metadata gives, with the metadata."""
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)
    original = PreTrainedTokenizerFast.from_pretrained(folder)
    config = config or transformers.LlamaConfig(bos_token_id=None, eos_token_id=None)
    model = SimpleNamespace(config=config, generation_config=None)
    fields = tokenizer_fields(SimpleNamespace(folder=folder), model)
    known = {"general.architecture": Field(config.model_type, ValueType.STRING)}
    return original, load_tokenizer(Draft(folder / "m.gguf", known | fields)), fields


def same(original, loaded) -> None:
    for text in [*made.TEXTS, f"a{original.eos_token or ''} b"]:
        for framed in (True, False):
            ids = original(text, add_special_tokens=framed).input_ids
            assert loaded(text, add_special_tokens=framed).input_ids == ids
        assert loaded.decode(ids) == original.decode(ids)


@pytest.mark.parametrize("pre", made.BYTE_LEVEL)
def test_byte_level(pre, corpus, tmp_path):
    tokenizer = made.byte_level(pre, corpus)
    original, loaded, fields = written(tokenizer, tmp_path, bos_token="<s>", eos_token="</s>")
    same(original, loaded)
    assert fields["tokenizer.ggml.model"].value == "gpt2"
    assert "tokenizer.huggingface.json" not in fields
    kinds = fields["tokenizer.ggml.token_type"].value
    assert kinds[:2] == [3, 3]
    assert kinds[fields["tokenizer.ggml.tokens"].value.index("<think>")] == 4
    found = fields["tokenizer.ggml.pre"].value
    same_as = made_splitting(pre)
    assert made_splitting(found) == same_as


def made_splitting(name):
    from quantload_gguf.vocabulary.splitting import SPLITTINGS

    found = SPLITTINGS[name]
    return (found.patterns, found.digits, found.nfc, found.ignore_merges, found.byte_regex)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece(prefix, corpus, tmp_path):
    tokenizer, scores = made.sentencepiece(corpus, prefix)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A"], pair=["<s>", "$A", "<s>", "$B:1"], special_tokens=[("<s>", 1)]
    )
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    original, loaded, fields = written(tokenizer, tmp_path, **roles)
    same(original, loaded)
    assert fields["tokenizer.ggml.model"].value == "llama"
    assert fields["tokenizer.ggml.add_space_prefix"].value is prefix
    assert fields["tokenizer.ggml.add_bos_token"].value is True
    assert fields["tokenizer.ggml.token_type"].value[:4] == [2, 3, 3, 6]
    order = sorted(range(300, 900), key=lambda i: scores[i])
    found = fields["tokenizer.ggml.scores"].value
    assert order == sorted(range(300, 900), key=lambda i: found[i])


@pytest.mark.parametrize("lowercase", [True, False])
def test_wordpiece(lowercase, tmp_path):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*"abcdefghijklmnopqrstuvwxyzABH", "he", "##llo", "world", "def", *"#():->='123.汉"]
    pieces += [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123"]
    vocabulary = {token: i for i, token in enumerate([*special, *pieces])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(special)
    names = ("pad", "unk", "cls", "sep", "mask")
    roles = {f"{name}_token": token for name, token in zip(names, special, strict=True)}
    original, loaded, fields = written(tokenizer, tmp_path, transformers.BertConfig(), **roles)
    for text in made.TEXTS:
        assert loaded(text).input_ids == original(text).input_ids
    assert fields["tokenizer.ggml.model"].value == "bert"
    assert {"\u2581he", "llo", "[CLS]"} <= set(fields["tokenizer.ggml.tokens"].value)
    assert (loaded.cls_token, loaded.mask_token) == ("[CLS]", "[MASK]")


def test_unigram(tmp_path):
    letters = "\u2581abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;()"
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581he", -3.0), ("llo", -4.0)]
    vocabulary += [(letter, -6.0 - i / 100) for i, letter in enumerate(letters)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    squeezed = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(left=False), squeezed])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B:1", "</s>"], special_tokens=[("</s>", 1)]
    )
    roles = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    original, loaded, fields = written(tokenizer, tmp_path, **roles)
    for text in made.TEXTS:
        assert loaded(text).input_ids == original(text).input_ids
    assert fields["tokenizer.ggml.model"].value == "t5"
    assert fields["tokenizer.ggml.remove_extra_whitespaces"].value is True
    assert "tokenizer.huggingface.json" not in fields


def test_one_that_files_have_no_words_for_is_kept_whole(corpus, tmp_path, caplog):
    tokenizer = made.byte_level("gpt-2", corpus)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("[aeiou]"), "isolated"), made.BYTES]
    )
    original, loaded, fields = written(tokenizer, tmp_path, bos_token="<s>", eos_token="</s>")
    same(original, loaded)
    assert json.loads(fields["tokenizer.huggingface.json"].value)["model"]["type"] == "BPE"
    assert "llama.cpp does not read" in caplog.text


def test_chat_templates_and_ends_of_turns(corpus, tmp_path):
    tokenizer = made.byte_level("llama-bpe", corpus)
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    config = transformers.LlamaConfig(bos_token_id=0, eos_token_id=[1, 5])
    roles = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": template}
    _, loaded, fields = written(tokenizer, tmp_path, config, **roles)
    chat = [{"role": "user", "content": "Hi"}]
    assert loaded.apply_chat_template(chat, tokenize=False) == "<user>Hi"
    assert fields["tokenizer.ggml.eos_token_id"].value == 1
    assert fields["tokenizer.ggml.eot_token_id"].value == 5


def test_a_folder_without_a_tokenizer(tmp_path, caplog):
    model = SimpleNamespace(config=transformers.LlamaConfig(), generation_config=None)
    fields = tokenizer_fields(SimpleNamespace(folder=tmp_path), model)
    assert {key: field.value for key, field in fields.items()} == {"tokenizer.ggml.model": "none"}
    assert "no tokenizer is written" in caplog.text
