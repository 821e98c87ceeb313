# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Documents, the tokenizer, packing, splits and counts."""

import json

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from trainer import data
from trainer.collator import TokMatDataCollator
from trainer.data import (
    count_tokens,
    load_documents,
    split_documents,
    tokenize_and_pack,
    train_tokenizer,
)

pytestmark = pytest.mark.usefixtures("datasets_cache")
STORIES = [f"Story {i}: the {animal} sat on the {i} mats." for i, animal in enumerate(["cat", "dog", "hen"] * 20)]

few_examples = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(STORIES, vocab_size=400)


def corpus(texts, streaming=False, shards=1):
    documents = Dataset.from_dict({"text": list(texts)})
    return documents.to_iterable_dataset(num_shards=shards) if streaming else documents


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def texts_of(documents):
    assert list(documents.column_names) == ["text"]
    return [row["text"] for row in documents]


@pytest.mark.parametrize("streaming", [False, True])
def test_text_file_documents_are_separated_by_marker_lines(tmp_path, streaming):
    marker = "<|endoftext|>"
    text = (
        f"\n{marker}\n  One.\n\nStill one: {marker} inside a line.\n{marker}\n \n{marker}\r\nTwo é.\r\n {marker} \n\n"
    )
    documents = load_documents(str(write(tmp_path / "a.txt", text)), streaming=streaming)
    assert isinstance(documents, IterableDataset if streaming else Dataset)
    assert texts_of(documents) == [f"  One.\n\nStill one: {marker} inside a line.", "Two é."]


@pytest.mark.parametrize("suffix", [".txt", ".md", ".log", ""])
def test_text_file_without_marker_is_one_document(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", "\ufeffOne.\n\nAnd on.\n")
    assert texts_of(load_documents(path)) == ["One.\n\nAnd on."]


@pytest.mark.parametrize("streaming", [False, True])
def test_folder_reads_text_files_below_it_in_order(tmp_path, streaming):
    write(tmp_path / "b.txt", "B")
    write(tmp_path / "a/z.MD", "A")
    write(tmp_path / "c.md", "C1\n<|endoftext|>\nC2")
    write(tmp_path / "empty.txt", "\n")
    write(tmp_path / "ignored.py", "print()")
    assert texts_of(load_documents(tmp_path, streaming=streaming)) == ["A", "B", "C1", "C2"]


def test_edited_file_is_read_anew(tmp_path):
    path = write(tmp_path / "a.txt", "Old.")
    assert texts_of(load_documents(path)) == ["Old."]
    write(path, "Newer.")
    assert texts_of(load_documents(path)) == ["Newer."]


def test_text_files_are_read_lazily(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{i}.txt", f"Text {i}") for i in range(3)]
    documents = load_documents(paths, streaming=True)
    for path in paths[1:]:
        path.unlink()
    assert next(iter(documents))["text"] == "Text 0"


def write_table(path, rows):
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(str(path))
    elif path.suffix == ".csv":
        Dataset.from_list(rows).to_csv(str(path), index=False)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_table_files(tmp_path, suffix, streaming):
    rows = [
        {"story": "One,\ntwo", "id": 1},
        {"story": None, "id": 2},
        {"story": " ", "id": 3},
        {"story": "x", "id": 4},
    ]
    path = write_table(tmp_path / f"table{suffix}", rows)
    documents = load_documents(path, text_column="story", streaming=streaming)
    assert texts_of(documents) == ["One,\ntwo", "x"]


@pytest.mark.parametrize("streaming", [False, True])
def test_list_of_paths_keeps_its_order(tmp_path, streaming):
    paths = [
        write_table(tmp_path / "first.parquet", [{"text": "1"}]),
        str(write(tmp_path / "second.txt", "2")),
        write_table(tmp_path / "third.jsonl", [{"text": "3"}]),
        str(write(tmp_path / "folder/fourth.txt", "4").parent),
    ]
    assert texts_of(load_documents(paths, streaming=streaming)) == ["1", "2", "3", "4"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("source", ["owner/name-v1.0", "wikitext"])
def test_hub_data_set(monkeypatch, source, streaming):
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        rows = Dataset.from_dict({"body": ["", "Hub text", None], "label": [0, 1, 2]})
        return rows.to_iterable_dataset() if kwargs["streaming"] else rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    documents = load_documents(source, name="config", split="test", text_column="body", streaming=streaming)
    assert texts_of(documents) == ["Hub text"]
    assert calls == [((source, "config"), {"split": "test", "streaming": streaming})]


@pytest.mark.parametrize("source", ["missing.txt", "./missing", "/no/such/folder", "a/b/c", "missing.jsonl", "a b"])
@pytest.mark.parametrize("as_list", [False, True])
def test_missing_path_is_named(source, as_list, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("took a path for a Hub name"))
    with pytest.raises(FileNotFoundError, match=r"source=.*there is no file or folder .*allowed: \"builtin\""):
        load_documents([source] if as_list else source)


def test_missing_pathlike_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_documents(type(tmp_path)("nothing"))


@pytest.mark.parametrize("streaming", [False, True])
def test_source_errors(tmp_path, streaming):
    write(tmp_path / "folder/code.py", "pass")
    with pytest.raises(ValueError, match=r"source=.*holds no \.txt or \.md file; allowed"):
        load_documents(tmp_path / "folder", streaming=streaming)
    with pytest.raises(ValueError, match="source=.*empty.txt.*holds no document with text"):
        load_documents(write(tmp_path / "empty.txt", " \n<|endoftext|>\n"), streaming=streaming)
    (tmp_path / "binary.bin").write_bytes(b"\x80\xff\x00")
    with pytest.raises(ValueError, match="binary.bin.*is not UTF-8 text"):
        load_documents(tmp_path / "binary.bin", streaming=streaming)
    with pytest.raises(ValueError, match=r"source=\[\] names no file"):
        load_documents([], streaming=streaming)

    table = write_table(tmp_path / "table.jsonl", [{"story": " ", "id": 1}, {"story": "", "id": 2}])
    with pytest.raises(ValueError, match=r"text_column='text' is not a column of .*it has \['id', 'story'\]"):
        load_documents(table, streaming=streaming)
    with pytest.raises(ValueError, match="text_column='id' .* must hold strings; it holds .*int"):
        load_documents(table, text_column="id", streaming=streaming)
    with pytest.raises(ValueError, match="holds no document with text in its column 'story'"):
        load_documents(table, text_column="story", streaming=streaming)


def test_name_and_split_are_for_the_hub(tmp_path):
    path = write(tmp_path / "a.txt", "A")
    for source in ("builtin", path, [path]):
        with pytest.raises(ValueError, match="split='validation'.*split_documents"):
            load_documents(source, split="validation")
        with pytest.raises(ValueError, match="name='config'"):
            load_documents(source, name="config")
    with pytest.raises(ValueError, match="split=None must name one split"):
        load_documents("owner/name", split=None)


@pytest.mark.parametrize("streaming", [False, True])
def test_load_builtin(monkeypatch, streaming):
    monkeypatch.setattr(data, "builtin_documents", lambda: ["A", "B"])
    assert texts_of(load_documents("builtin", streaming=streaming)) == ["A", "B"]


def test_tokenizer_settings(tokenizer):
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert tokenizer.bos_token == tokenizer.eos_token == "<|endoftext|>" and tokenizer.eos_token_id == 0
    assert tokenizer.pad_token == "<|pad|>" and tokenizer.pad_token_id == 1
    assert tokenizer.padding_side == "left" and tokenizer.clean_up_tokenization_spaces is False
    assert 258 < len(tokenizer) <= 400
    assert tokenizer("a").input_ids != tokenizer(" a").input_ids
    assert len(tokenizer("the cat sat on the").input_ids) < 8


@given(st.text())
@few_examples
def test_tokenizer_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.parametrize(
    "text", [" a  'b ,c .", "\r\n\t x\n\n\n", "日本語 🤖\u200d", "é e\u0301", "<|pad|><|endoftext|> <|"]
)
def test_saved_tokenizer(tokenizer, tmp_path, text):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(text).input_ids == tokenizer(text).input_ids
    assert loaded.decode(loaded(text).input_ids) == text
    assert loaded.padding_side == "left" and loaded.clean_up_tokenization_spaces is False
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (0, 0, 1)


@pytest.mark.parametrize("streaming", [False, True])
def test_tokenizer_sources_agree(tokenizer, streaming):
    assert train_tokenizer(corpus(STORIES, streaming), 400).get_vocab() == tokenizer.get_vocab()


def test_tokenizer_max_documents():
    assert train_tokenizer(STORIES, max_documents=3).get_vocab() == train_tokenizer(STORIES[:3]).get_vocab()


def test_tokenizer_sizes():
    assert len(train_tokenizer(STORIES, 258)) == 258
    with pytest.raises(ValueError, match="vocab_size=257 .*at least 258"):
        train_tokenizer(STORIES, 257)


def packed_by_hand(texts, tokenizer, block_size):
    """The definition, token by token."""
    ids, positions = [], []
    for text in texts:
        for place, token in enumerate([0, *tokenizer(text).input_ids, 0]):
            ids.append(token)
            start = place == 0 or len(ids) % block_size == 1
            positions.append(0 if start else positions[-1] + 1)
    blocks = range(0, len(ids) - block_size + 1, block_size)
    return [{"input_ids": ids[i : i + block_size], "position_ids": positions[i : i + block_size]} for i in blocks]


@given(st.lists(st.text("abc é", max_size=30), min_size=1, max_size=12), st.integers(2, 20), st.booleans())
@few_examples
def test_packing_follows_its_definition(tokenizer, texts, block_size, streaming):
    expected = packed_by_hand(texts, tokenizer, block_size)
    original, data._BATCH = data._BATCH, 3  # blocks go on over batches
    try:
        if expected:
            assert list(tokenize_and_pack(corpus(texts, streaming), tokenizer, block_size)) == expected
        else:
            with pytest.raises(ValueError, match=f"block_size={block_size} .*has .* tokens"):
                list(tokenize_and_pack(corpus(texts, streaming), tokenizer, block_size))
    finally:
        data._BATCH = original


@given(st.lists(st.integers(1, 25), min_size=1, max_size=15), st.integers(2, 12))
@few_examples
def test_packed_positions(lengths, block_size):
    ids = [list(range(100 * i, 100 * i + length)) for i, length in enumerate(lengths)]
    if sum(lengths) < block_size:
        return
    rows = list(data._packed_rows(Dataset.from_dict({"input_ids": ids}), block_size))
    assert len(rows) == sum(lengths) // block_size
    assert sum((row["input_ids"] for row in rows), []) == sum(ids, [])[: len(rows) * block_size]
    for row in rows:
        place = row["position_ids"]
        assert place[0] == 0 and len(place) == len(row["input_ids"]) == block_size
        for i in range(1, block_size):
            begins = row["input_ids"][i] % 100 == 0  # the first id of a document, by construction
            assert place[i] == (0 if begins else place[i - 1] + 1)


@pytest.mark.parametrize("packing", [False, True])
def test_streaming_rows_equal_map_style_rows(tokenizer, packing):
    rows = tokenize_and_pack(corpus(STORIES), tokenizer, 16, packing=packing)
    stream = tokenize_and_pack(corpus(STORIES, streaming=True, shards=4), tokenizer, 16, packing=packing)
    assert isinstance(rows, Dataset) and isinstance(stream, IterableDataset)
    assert rows.column_names == stream.column_names == (["input_ids", "position_ids"] if packing else ["input_ids"])
    assert list(rows) == list(stream)
    assert list(rows) == list(stream)  # a second pass begins anew
    assert list(rows)[:3] == list(stream.take(3))


def test_packed_stream_in_data_loader_workers(tokenizer):
    rows = tokenize_and_pack(corpus(STORIES), tokenizer, 16)
    stream = tokenize_and_pack(corpus(STORIES, streaming=True, shards=4), tokenizer, 16)
    loader = DataLoader(stream, batch_size=1, num_workers=2, collate_fn=TokMatDataCollator(pad_token_id=1))
    assert [batch["input_ids"][0].tolist() for batch in loader] == rows["input_ids"][:]


def test_streaming_is_lazy(tokenizer):
    def endless():
        while True:
            yield {"text": "on and on"}

    stream = tokenize_and_pack(IterableDataset.from_generator(endless), tokenizer, 8)
    assert len(list(stream.take(3))) == 3


def test_packing_in_processes(tokenizer):
    texts = [f"{story} Again." for story in STORIES]
    assert list(tokenize_and_pack(corpus(texts), tokenizer, 16, num_proc=2)) == packed_by_hand(texts, tokenizer, 16)


def test_without_packing_documents_stay_whole_or_are_cut(tokenizer):
    rows = list(tokenize_and_pack(corpus(["a", "b" * 50]), tokenizer, 10, packing=False))
    a, b = tokenizer("a").input_ids[0], tokenizer("b").input_ids[0]
    assert rows == [{"input_ids": [0, a, 0]}, {"input_ids": [0] + [b] * 9}]


def test_other_columns_do_not_stay(tokenizer):
    documents = Dataset.from_dict({"text": STORIES, "label": range(len(STORIES))})
    assert tokenize_and_pack(documents, tokenizer, 16, packing=False).column_names == ["input_ids"]


def test_tokenizer_without_bos_begins_with_eos(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path)
    other.bos_token, other.eos_token = None, "<|pad|>"
    assert list(tokenize_and_pack(corpus([""]), other, 2))[0]["input_ids"] == [1, 1]
    other.eos_token = None
    with pytest.raises(ValueError, match="eos_token=None"):
        tokenize_and_pack(corpus([""]), other, 2)


def test_packing_errors(tokenizer):
    for packing in (False, True):
        with pytest.raises(ValueError, match="block_size=1 .*at least 2"):
            tokenize_and_pack(corpus(STORIES), tokenizer, 1, packing=packing)
    with pytest.raises(ValueError, match="block_size=100 .*has 3 tokens"):
        tokenize_and_pack(corpus(["a"]), tokenizer, 100)
    stream = tokenize_and_pack(corpus(["a"], streaming=True), tokenizer, 100)
    with pytest.raises(ValueError, match="block_size=100 .*has 3 tokens"):
        list(stream)


def test_from_file_to_rows(tokenizer, tmp_path):
    path = write(tmp_path / "stories.txt", "\n<|endoftext|>\n".join(STORIES))
    for streaming in (False, True):
        train, validation = split_documents(load_documents(path, streaming=streaming), 0.25)
        assert sorted(texts_of(train) + texts_of(validation)) == sorted(STORIES)
        expected = packed_by_hand(texts_of(train), tokenizer, 16)
        assert list(tokenize_and_pack(train, tokenizer, 16)) == expected


def test_cache_is_outside_the_home_directory(tmp_path):
    documents = load_documents(write(tmp_path / "a.txt", "A"))
    folder = str(datasets.config.HF_DATASETS_CACHE)
    assert documents.cache_files and all(file["filename"].startswith(folder) for file in documents.cache_files)


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 2**32))
@few_examples
def test_split_shares_nothing_and_loses_nothing(count, fraction, seed):
    texts = [f"{i:03}" for i in range(count)]
    train, validation = (texts_of(part) for part in split_documents(corpus(texts), fraction, seed))
    assert sorted(train + validation) == texts
    assert train == sorted(train) and validation == sorted(validation)
    assert len(validation) == min(max(round(count * fraction), 1), count - 1)
    streams = [texts_of(part) for part in split_documents(corpus(texts, True, shards=2), fraction, seed)]
    assert sorted(sum(streams, [])) == texts


@pytest.mark.parametrize("streaming", [False, True])
def test_split_is_deterministic(streaming):
    texts = [f"{i:04}" for i in range(2000)]
    first, again, other = (
        [texts_of(part) for part in split_documents(corpus(texts, streaming), 0.1, seed)] for seed in (0, 0, 1)
    )
    assert first == again != other
    assert 150 < len(first[1]) < 250


def test_streaming_split_does_not_depend_on_the_order():
    train, validation = split_documents(corpus(STORIES[::-1], True, shards=3), 0.3)
    same = split_documents(corpus(STORIES, True), 0.3)
    assert set(texts_of(train)) == set(texts_of(same[0])) and set(texts_of(validation)) == set(texts_of(same[1]))


def test_split_errors():
    for fraction in (0, 1, -0.1, 5):
        with pytest.raises(ValueError, match=f"validation_fraction={fraction} must lie between 0 and 1"):
            split_documents(corpus(STORIES), fraction)
    with pytest.raises(ValueError, match="cannot split a corpus of 1 document"):
        split_documents(corpus(["one"]), 0.5)


@pytest.mark.parametrize("packing", [False, True])
def test_count_tokens(tokenizer, packing):
    rows = tokenize_and_pack(corpus(STORIES), tokenizer, 16, packing=packing)
    counts = count_tokens(rows, 500)
    assert counts.dtype == torch.long and counts.shape == (500,)
    expected = np.bincount([token for row in rows for token in row["input_ids"]], minlength=500)
    assert counts.tolist() == expected.tolist()
    with pytest.raises(ValueError, match=r"vocab_size=10 is too small: .* the id \d+"):
        count_tokens(rows, 10)
