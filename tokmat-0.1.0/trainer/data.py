# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Text to training rows: documents from files, folders, the Hub or the built-in corpus; a tokenizer; packing.

    documents = load_documents("stories.txt")
    train, validation = split_documents(documents, validation_fraction=0.05)
    tokenizer = train_tokenizer(train, vocab_size=4096)
    rows = tokenize_and_pack(train, tokenizer, block_size=256)

A corpus is a data set, map-style or streaming, with the column "text" and a document per row.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets import Dataset, Features, IterableDataset, List, Value
from datasets.exceptions import DatasetsError
from pyarrow.lib import ArrowException
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .builtin_corpus import builtin_documents
from .tables import table_documents

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"

_SOURCES = (
    '"builtin", a text file, a folder of .txt or .md files, a .json, .jsonl, .csv or .parquet file, '
    "a list of such paths, or the name of a Hub data set"
)
_FORMATS = {".json": "table", ".jsonl": "table", ".csv": "table", ".parquet": "parquet"}
_BATCH = 1000  # documents handled at a time

_TEXT = Features({"text": Value("string")})
_UNPACKED = Features({"input_ids": List(Value("int32"))})
_PACKED = Features({"input_ids": List(Value("int32")), "position_ids": List(Value("int32"))})


def load_documents(source, *, name=None, split="train", text_column="text", streaming=False):
    """A `Dataset` (streaming: `IterableDataset`) with the one column "text", a row per document that is not empty.

    Args:
        source: "builtin" (see `builtin_documents`); a text file, in which lines holding only `<|endoftext|>` separate
            documents (without such lines it is one document); a folder, for all .txt and .md files below it, sorted;
            a .json, .jsonl, .csv or .parquet file; a list of such paths; or the name of a Hub data set.
        name, split: of the Hub data set, as for `datasets.load_dataset`. Other sources have neither.
        text_column: the column that holds the text, in sources that have columns.

    Raises:
        FileNotFoundError: `source` is a path that does not exist.
        ValueError: a folder without text files, a text file that is not UTF-8, a file whose rows cannot be read or are
            no text (named with the line), a missing text column, a corpus without any text, or `name` / `split` for
            something that is not on the Hub.
    """
    paths = source if isinstance(source, list | tuple) else [source]
    if not all(isinstance(path, str | os.PathLike) and os.fspath(path) for path in paths):
        raise ValueError(f"source={source!r} holds an empty name; allowed: {_SOURCES}.")  # "" would be the folder "."
    local = paths is source or source == "builtin" or _is_path(source)
    if local and (name is not None or split != "train"):
        problem = f"name={name!r} and split={split!r} choose within a Hub data set, which source={source!r} is not"
        raise ValueError(f"{problem}; leave them out, and use split_documents() for a validation set.")
    if source == "builtin":
        documents = Dataset.from_dict({"text": builtin_documents()}, features=_TEXT)
        return documents.to_iterable_dataset() if streaming else documents
    if not local:
        if not isinstance(split, str):
            raise ValueError(f"split={split!r} must name one split of {source!r}, such as 'train' or 'train[:10%]'.")
        documents = datasets.load_dataset(source, name, split=split, streaming=streaming)
        return _text_only(documents, source, text_column)

    files = [file for path in paths for file in _files(Path(path).expanduser(), source)]
    parts, kind = [], IterableDataset if streaming else Dataset
    for form, group in itertools.groupby(files, key=lambda file: _FORMATS.get(file.suffix.lower(), "text")):
        # Size and time of change are in the arguments because `datasets` caches by them: an edited file is new.
        stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in group]
        if form == "parquet":
            parts.append(_load_parquet([path for path, *_ in stats], source, text_column, streaming))
            continue
        make, arguments = _text_file_documents, {"files": stats}
        if form == "table":
            make, arguments = table_documents, arguments | {"text_column": text_column}
        if next(make(**arguments), None) is None:
            where = f"its column {text_column!r}" if form == "table" else [path for path, *_ in stats]
            raise ValueError(f"source={source!r} holds no document with text in {where}.")
        try:
            parts.append(kind.from_generator(make, gen_kwargs=arguments, features=_TEXT))
        except DatasetsError as error:  # which hides what is wrong with a later document
            raise ValueError(str(error.__cause__ or error)) from error
    if not parts:
        raise ValueError(f"source={source!r} names no file; allowed: {_SOURCES}.")
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _load_parquet(paths: list[str], source, text_column: str, streaming: bool):
    try:
        table = datasets.load_dataset("parquet", data_files=paths, split="train", streaming=streaming)
        return _text_only(table, source, text_column)
    except (DatasetsError, ArrowException, StopIteration) as error:
        cause = str(error if error.__cause__ is None else error.__cause__) or "it is empty"
        raise ValueError(f"source={source!r} cannot be read: {paths}: {cause}") from error


def _is_path(source) -> bool:
    """Whether `source` can only be meant as a path, existing or not. A Hub name is "name" or "owner/name"."""
    if not isinstance(source, str) or os.path.exists(source):
        return True
    hub_name = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source)
    return not hub_name or Path(source).suffix.lower() in {".txt", ".md", *_FORMATS}


def _files(path: Path, source) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"source={source!r}: there is no file or folder {str(path)!r}; allowed: {_SOURCES}.")
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in (".txt", ".md") and file.is_file())
    if not files:
        raise ValueError(f"source={source!r}: folder {str(path)!r} holds no .txt or .md file; allowed: {_SOURCES}.")
    return files


def _text_file_documents(files: list[tuple[str, int, int]]) -> Iterator[dict[str, str]]:
    for path, *_ in files:
        try:
            with open(path, encoding="utf-8-sig") as file:
                for separator, lines in itertools.groupby(file, key=lambda line: line.strip() == END_OF_TEXT):
                    text = "" if separator else "".join(lines).strip("\n")
                    if _has_text(text):
                        yield {"text": text}
        except UnicodeDecodeError as error:
            raise ValueError(f"source: {path!r} is not UTF-8 text ({error}); allowed: {_SOURCES}.") from error


def _text_only(documents, source, text_column):
    """Checks that `text_column` is there and holds text somewhere, and cuts everything else away."""
    for row in documents:
        if text_column not in row:
            raise ValueError(f"text_column={text_column!r} is not a column of {source!r}; it has {sorted(row)}.")
        text = row[text_column]
        if not isinstance(text, str | None):
            raise ValueError(f"text_column={text_column!r} of {source!r} must hold strings; it holds {type(text)}.")
        if _has_text(text):
            break
    else:
        raise ValueError(f"source={source!r} holds no document with text in its column {text_column!r}.")
    documents = documents.select_columns(text_column)
    if text_column != "text":
        documents = documents.rename_column(text_column, "text")
    if documents.features != _TEXT:  # of another string type, or streaming and not known
        documents = documents.cast(_TEXT)
    return documents.filter(_has_text, input_columns="text")


def _has_text(text: str | None) -> bool:
    return text is not None and bool(text.strip())


def train_tokenizer(documents, vocab_size=4096, *, max_documents=None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with `<|endoftext|>` (id 0; bos and eos) and `<|pad|>` (id 1), padding on the left.

    Any text comes back unchanged from `decode(encode(text))`. `documents` is a data set with the column "text" or an
    iterable of strings, of which the first `max_documents` count. One too small to fill `vocab_size` gives fewer.

    Raises:
        ValueError: `vocab_size` < 258, the 256 bytes and the two special tokens.
    """
    if vocab_size < 258:
        raise ValueError(f"vocab_size={vocab_size} is too small; allowed: at least 258 (256 bytes, 2 special tokens).")
    texts = iter(documents)
    if isinstance(documents, Dataset | IterableDataset):
        texts = itertools.chain.from_iterable(batch["text"] for batch in documents.iter(_BATCH))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()  # all bytes, seen or not: no text is then unknown
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[END_OF_TEXT, PAD], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(itertools.islice(texts, max_documents), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": PAD, "padding_side": "left"},
        clean_up_tokenization_spaces=False,
    )


def tokenize_and_pack(documents, tokenizer, block_size: int, *, packing=True, num_proc=None):
    """A `Dataset` or `IterableDataset` of training rows. Every document becomes [bos] + tokens + [eos].

    With `packing`, the documents follow each other in one stream that is cut into blocks. A row holds `input_ids`
    (block_size,) and `position_ids` (block_size,), which restart at 0 at every document and at the start of the row:
    by them transformers keeps attention within a document. Only the incomplete block at the end of the whole corpus is
    lost. Without `packing` a row is one document, cut to at most `block_size` ids, and holds `input_ids` only.

    Streaming documents give streaming rows, made as they are read, whatever `num_proc`. (Fast tokenizers use all cores
    without it.) A tokenizer without a bos token begins documents with eos.

    Raises:
        ValueError: `block_size` < 2, a tokenizer without eos, or, in streams at the end of the first pass, a corpus
            shorter than one block.
    """
    if block_size < 2:
        raise ValueError(f"block_size={block_size} is too small; allowed: at least 2 tokens.")
    if tokenizer.eos_token_id is None:
        raise ValueError("tokenizer.eos_token=None, but documents must end; set it to a token of the vocabulary.")
    streaming = isinstance(documents, IterableDataset)
    options = {} if streaming else {"num_proc": num_proc, "desc": "Tokenizing"}
    options |= {"fn_kwargs": {"tokenizer": tokenizer, "max_length": None if packing else block_size}}
    options |= {"input_columns": "text", "remove_columns": documents.column_names or ["text"], "features": _UNPACKED}
    rows = documents.map(_encode, batched=True, batch_size=_BATCH, **options)
    if not packing:
        return rows
    kind, arguments = IterableDataset if streaming else Dataset, {"tokenized": rows, "block_size": block_size}
    if not streaming:
        next(_packed_rows(**arguments))  # a corpus that is too short fails here, before `datasets` wraps the error
    return kind.from_generator(_packed_rows, gen_kwargs=arguments, features=_PACKED)


def _encode(texts: list[str], tokenizer, max_length: int | None) -> dict[str, list[list[int]]]:
    eos = tokenizer.eos_token_id
    bos = eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    # verbose=False: no warnings about documents longer than the model's context, which is what packing is for.
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    return {"input_ids": [[bos, *ids, eos][:max_length] for ids in encoded["input_ids"]]}


def _packed_rows(tokenized: Dataset | IterableDataset, block_size: int) -> Iterator[dict[str, list[int]]]:
    place = np.arange(block_size)
    rest, rest_starts, packed = np.empty(0, np.int32), np.empty(0, bool), False
    # .iter() and not iter(): inside a data-loader worker the latter would leave the other workers' shards out, while
    # the packed stream is one shard, so that its rows do not depend on the number of workers.
    for batch in tokenized.iter(_BATCH):
        lengths = np.array([len(ids) for ids in batch["input_ids"]])
        ids = np.fromiter(itertools.chain.from_iterable(batch["input_ids"]), np.int32, lengths.sum())
        starts = np.zeros(len(ids), bool)
        starts[np.cumsum(lengths) - lengths] = True
        ids, starts = np.concatenate([rest, ids]), np.concatenate([rest_starts, starts])

        whole = len(ids) - len(ids) % block_size
        rest, rest_starts = ids[whole:], starts[whole:]
        block_starts = starts[:whole].reshape(-1, block_size)
        block_starts[:, 0] = True
        positions = place - np.maximum.accumulate(np.where(block_starts, place, 0), axis=1)
        for row, row_positions in zip(ids[:whole].reshape(-1, block_size).tolist(), positions.tolist()):
            packed = True
            yield {"input_ids": row, "position_ids": row_positions}
    if not packed:
        raise ValueError(f"block_size={block_size} is longer than the whole corpus, which has {len(rest)} tokens.")


def split_documents(documents, validation_fraction: float, seed=0):
    """A (train, validation) pair that shares no document and is the same for the same `seed`.

    Map-style: round(n * validation_fraction) documents drawn at random, at least one on either side, order kept.
    Streaming: by a hash of the text, which depends on neither the stream's order nor its shards (as counting documents
    would, in data-loader workers); the fraction is met on average.

    Raises:
        ValueError: `validation_fraction` is not between 0 and 1, or there are fewer than two documents.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction={validation_fraction} must lie between 0 and 1, both excluded.")
    if isinstance(documents, IterableDataset):
        limit = int(validation_fraction * 2**64)
        sides = [{"seed": seed, "limit": limit, "below": below} for below in (False, True)]
        return tuple(documents.filter(_on_side, fn_kwargs=side) for side in sides)
    count = len(documents)
    if count < 2:
        problem = f"validation_fraction={validation_fraction} cannot split a corpus of {count} document"
        raise ValueError(f"{problem}; separate documents by lines of {END_OF_TEXT}, or give a validation file.")
    size = min(max(round(count * validation_fraction), 1), count - 1)
    validation, train = np.split(np.random.default_rng(seed).permutation(count), [size])
    return documents.select(np.sort(train)), documents.select(np.sort(validation))


def _on_side(row: dict[str, str], seed: int, limit: int, below: bool) -> bool:
    digest = hashlib.blake2b(f"{seed}:{row['text']}".encode(errors="surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") < limit) == below


def count_tokens(dataset: Dataset, vocab_size: int) -> torch.Tensor:
    """How often each id occurs in the `input_ids` of a map-style data set: (vocab_size,).

    Raises:
        ValueError: an id is not below `vocab_size`.
    """
    counts = np.zeros(vocab_size, np.int64)
    for batch in dataset.select_columns("input_ids").with_format("numpy").iter(_BATCH):
        ids = np.concatenate([np.asarray(row) for row in batch["input_ids"]])
        if ids.max() >= vocab_size:
            raise ValueError(f"vocab_size={vocab_size} is too small: the data set holds the id {ids.max()}.")
        counts += np.bincount(ids, minlength=vocab_size)
    return torch.from_numpy(counts)
