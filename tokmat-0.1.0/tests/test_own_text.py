# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""A model's own text: greedy answers in batches, a run that goes on where it was stopped, and what training reads."""

import json
from collections import Counter

import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from modeling_tokmat import TokMatConfig, TokMatForContinuousLM
from trainer import cli, own_text
from trainer.data import load_documents
from trainer.own_text import (
    Prompt,
    answer,
    chat_prompts,
    document_prompts,
    draw_batches,
    is_stuck,
    load_own_text,
    make_row,
    write_own_text,
)
from trainer.questions import Sampling, ask, opening, questions

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
SETTINGS = {"max_new_tokens": 12, "stop_loops": True, "seed": 0}


@pytest.fixture(scope="module")
def chat_tokenizer(tokenizer):
    import copy

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def llama_config(tokenizer, **fields):
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.5}
    return LlamaConfig(**(sizes | {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1} | fields))


@pytest.fixture(scope="module", params=["llama", "tokmat"])
def model(request, tokenizer):
    """A random model whose greedy texts differ and sometimes end; float64: width must not matter."""
    torch.manual_seed(0)
    config = llama_config(tokenizer)
    if request.param == "llama":
        return LlamaForCausalLM(config).double().eval()
    config = TokMatConfig(backbone_config=config.to_dict(), embedding_radius=1.0, eos_token_id=0, pad_token_id=1)
    model = TokMatForContinuousLM(config).eval()
    torch.nn.init.orthogonal_(model.head.weight)
    return model.double()


def some_prompts(count=12, seed=1):
    ids = torch.randint(2, 290, (count, 9), generator=torch.Generator().manual_seed(seed)).tolist()
    return [Prompt(row[: 3 + place % 6], "random") for place, row in enumerate(ids)]


def alone(model, prompt, new):
    options = {"tail_length": 1, "alpha_max": 1.0} if model.config.model_type == "tokmat" else {"do_sample": False}
    return model.generate(torch.tensor([prompt]), max_new_tokens=new, **options)[0, len(prompt) :].tolist()


# -- answers ----------------------------------------------------------------------------------------------------------


def test_answers_of_a_batch_are_each_prompt_s_own_greedy_text(model, tokenizer, monkeypatch):
    monkeypatch.setattr(own_text, "STAGE", 5)
    prompts = [prompt.ids for prompt in some_prompts()]
    expected = [alone(model, prompt, 17) for prompt in prompts]
    for end in {row[min(place, len(row) - 1)] for place, row in zip((1, 6, 11), expected)}:
        # Texts that end at different places, so that the batch shrinks.
        model.generation_config.eos_token_id = [0, end]
        cut = [row[: row.index(end) + 1] if end in row else row for row in expected]
        assert len({len(row) for row in cut}) > 1
        assert answer(model, tokenizer, prompts, 17, stop_loops=False) == cut
    model.generation_config.eos_token_id = 0


def test_an_answer_that_is_stuck_leaves_the_batch(tokenizer, monkeypatch):
    monkeypatch.setattr(own_text, "STAGE", 8)
    # With tied embeddings and small weights a random model soon says one thing for ever.
    model = LlamaForCausalLM(llama_config(tokenizer, tie_word_embeddings=True, initializer_range=0.13))
    model = model.double().eval()
    prompts = [prompt.ids for prompt in some_prompts(count=8)]
    whole = answer(model, tokenizer, prompts, 96, stop_loops=False)
    stopped = answer(model, tokenizer, prompts, 96, stop_loops=True)
    assert sum(map(len, stopped)) < sum(map(len, whole))
    for short, long in zip(stopped, whole):
        assert long[: len(short)] == short
        assert len(short) == len(long) or is_stuck(short)


def test_stuck_is_one_phrase_three_times_and_24_repeated_tokens():
    before, phrase = list(range(100, 120)), list(range(12))
    assert is_stuck(before + 3 * phrase)
    assert not is_stuck(before + 2 * phrase + phrase[:-1])
    assert not is_stuck(before + 3 * phrase + [99])
    assert not is_stuck(3 * phrase[:8]) and is_stuck(4 * phrase[:8])
    assert not is_stuck(24 * [7]) and is_stuck(25 * [7])


def test_a_model_without_an_end_is_refused(tokenizer):
    model = LlamaForCausalLM(llama_config(tokenizer, eos_token_id=None))
    tokenizer = type("NoEnd", (), {"eos_token_id": None, "pad_token_id": None})()
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        answer(model, tokenizer, [[5, 6]], 4)


# -- prompts ----------------------------------------------------------------------------------------------------------


def test_beginnings_come_once_at_every_length(tokenizer):
    texts = [f"{number} hens and the fox sat by the river one day" for number in range(10, 40)]
    documents = Dataset.from_dict({"text": texts + texts[:9]})
    found = list(document_prompts(documents, tokenizer, "stories", seed=0, lengths=(2, 5)))
    ids = [tokenizer(text)["input_ids"] for text in texts]
    for length in (2, 5):
        begun = [tuple(prompt.ids) for prompt in found if len(prompt.ids) == length]
        # What begins alike is answered alike, and one answer to that is enough.
        assert sorted(begun) == sorted({tuple(row[:length]) for row in ids})
    assert {prompt.kind for prompt in found} == {"stories"} and {len(prompt.ids) for prompt in found} == {2, 5}
    with_bos = next(document_prompts(documents, tokenizer, "stories", seed=0, lengths=(3,), add_bos=True))
    without = next(document_prompts(documents, tokenizer, "stories", seed=0, lengths=(3,)))
    assert with_bos.ids == [tokenizer.bos_token_id, *without.ids[:2]]
    other = [prompt.ids for prompt in document_prompts(documents, tokenizer, "stories", seed=1, lengths=(5,))]
    assert other != [prompt.ids for prompt in document_prompts(documents, tokenizer, "", seed=0, lengths=(5,))]
    short = Dataset.from_dict({"text": ["a", "one day the fox asked the owl"]})
    assert len(list(document_prompts(short, tokenizer, "x", seed=0, lengths=(4,)))) == 1


def test_chat_rows_go_through_the_template(chat_tokenizer, tmp_path):
    path = tmp_path / "chat.jsonl"
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "the fox"}]
    rows = [{"prompt": "the owl"}, {"messages": messages, "kind": "two"}, {"prompt": "the river " * 50}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = {chat_tokenizer.decode(prompt.ids): prompt.kind for prompt in chat_prompts(path, chat_tokenizer, 0, 100)}
    assert found == {
        "<user>the owl\n<assistant>": "chat",
        "<system>Be kind.\n<user>the fox\n<assistant>": "two",
    }


def test_batches_mix_the_sources_fairly_and_hold_like_lengths():
    sources = [("a", iter([Prompt([1] * (1 + place % 7), "a") for place in range(400)]))]
    sources += [("b", iter([Prompt([2] * (1 + place % 9), f"b{place}") for place in range(400)]))]
    batches = draw_batches(sources, [3, 1], batch_size=4, texts=330, seed=0)
    assert sum(map(len, batches)) == 330 and max(map(len, batches)) == 4
    flat = [prompt for batch in batches for prompt in batch]
    assert len({prompt.kind for prompt in flat if prompt.ids[0] == 2}) == sum(prompt.ids[0] == 2 for prompt in flat)
    for pool in range(0, 320, own_text.POOL * 4):
        part = flat[pool : pool + own_text.POOL * 4]
        assert sum(prompt.ids[0] == 2 for prompt in part) in (7, 8, 9)
        spread = [len(prompt.ids) for prompt in part]
        within = [max(spread[i : i + 4]) - min(spread[i : i + 4]) for i in range(0, len(part), 4)]
        assert sum(within) / len(within) < 2 < max(spread) - min(spread)
        assert spread != sorted(spread)
    with pytest.raises(ValueError, match="c gives 3 different prompts, but its share of 10 texts is 5"):
        draw_batches([("c", iter(some_prompts(3))), ("d", iter(some_prompts(9)))], [1, 1], 4, 10, 0)


# -- writing and reading ----------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_and_gives_the_same_file(model, tokenizer, tmp_path):
    prompts = some_prompts()
    batches = [prompts[first : first + 4] for first in range(0, 12, 4)]
    whole, broken, calls = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl", []
    write_own_text(model, tokenizer, batches, whole, SETTINGS)

    def kill(rows, written):
        if len(calls) == 1:
            raise Killed
        calls.append(written)

    with pytest.raises(Killed):
        write_own_text(model, tokenizer, batches, broken, SETTINGS, kill)
    lines = broken.read_bytes().splitlines(keepends=True)
    assert len(lines) == 8
    broken.write_bytes(b"".join(lines[:6]) + lines[6][:20])  # two rows of the second batch, and half of the third
    assert len(load_own_text(broken)) == 6
    calls = []
    write_own_text(model, tokenizer, batches, broken, SETTINGS, lambda rows, written: calls.append(written))
    assert calls == [False, True, True]
    assert broken.read_bytes() == whole.read_bytes()
    assert json.loads((tmp_path / "broken.jsonl.settings.json").read_text()) == SETTINGS

    rows = load_own_text(whole)
    assert [row["prompt_ids"] for row in rows] == [prompt.ids for prompt in prompts]
    assert rows["answer_ids"][:4] == answer(model, tokenizer, [prompt.ids for prompt in batches[0]], 12)


def test_other_settings_or_prompts_leave_the_file_as_it_is(model, tokenizer, tmp_path):
    output, prompts = tmp_path / "own.jsonl", some_prompts(4)
    write_own_text(model, tokenizer, [prompts], output, SETTINGS)
    before = output.read_bytes()
    with pytest.raises(ValueError, match="written with seed=0, not 1"):
        write_own_text(model, tokenizer, [prompts], output, SETTINGS | {"seed": 1})
    with pytest.raises(ValueError, match="from other prompts"):
        write_own_text(model, tokenizer, [some_prompts(4, seed=2)], output, SETTINGS)
    with pytest.raises(ValueError, match="120 after a prompt of 9 tokens are too many for the model's 128 positions"):
        long = [Prompt([5] * 9, "long")]
        write_own_text(model, tokenizer, [long], tmp_path / "new.jsonl", SETTINGS | {"max_new_tokens": 120})
    (tmp_path / "own.jsonl.settings.json").unlink()
    with pytest.raises(ValueError, match="it is not known how it was written"):
        write_own_text(model, tokenizer, [prompts], output, SETTINGS)
    assert output.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["own.jsonl"]


def test_the_text_of_a_row_is_a_document_for_training(tokenizer):
    eos, ids = tokenizer.eos_token_id, tokenizer("The fox asked. The owl said that")["input_ids"]
    cut = make_row(Prompt([eos, *ids[:3]], "x"), ids[3:], [eos], tokenizer)
    assert cut["text"] == "The fox asked."
    ended = make_row(Prompt([eos, *ids[:3]], "x"), [*ids[3:], eos], [eos], tokenizer)
    assert ended["text"] == "The fox asked. The owl said that"
    assert ended["answer_ids"] == [*ids[3:], eos] and not ended["loops"] and ended["rep3"] == 0
    loop = make_row(Prompt(ids[:3], "x"), ids[3:6] * 4, [eos], tokenizer)
    assert loop["loops"] and loop["rep3"] == pytest.approx(0.7)


def row_of(place, loops):
    return {"prompt_ids": [place], "answer_ids": [3, 4], "text": "a", "kind": "k", "rep3": 0.0, "loops": loops}


def test_only_a_share_of_the_loops_is_read(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row_of(place, place % 2 == 0)) + "\n" for place in range(40)))
    assert len(load_own_text(path)) == 40
    assert load_own_text(path, loop_share=0)["loops"] == [False] * 20
    some = load_own_text(path, loop_share=0.2)
    for count in range(1, len(some) + 1):
        assert sum(some["loops"][:count]) <= 0.2 * count
    assert sum(some["loops"]) == 4 and len(some) == 24
    with pytest.raises(ValueError, match="loop_share=2"):
        load_own_text(path, loop_share=2)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_own_text(tmp_path / "nowhere.jsonl")
    path.write_text(json.dumps(row_of(0, True)) + "\n")
    with pytest.raises(ValueError, match="no row that does not loop"):
        load_own_text(path, loop_share=0.5)
    path.write_text('{"prompt_ids": [1]}\n')
    with pytest.raises(ValueError, match="line 1, is no row of `tokmat own-text`"):
        load_own_text(path)


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def beginnings(tmp_path):
    """A text file of 60 documents, no two of which begin alike."""
    path = tmp_path / "stories.txt"
    texts = [f"{number} foxes sat by the river and asked the owl" for number in range(60)]
    path.write_text("\n<|endoftext|>\n".join(texts) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, chat_tokenizer):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "llama"
    config = llama_config(chat_tokenizer, max_position_embeddings=256)
    LlamaForCausalLM(config).save_pretrained(folder)
    chat_tokenizer.save_pretrained(folder)
    return folder


def invoke(*arguments):
    return CliRunner().invoke(cli.app, ["own-text", *map(str, arguments)])


def test_command_writes_from_texts_and_chats_and_goes_on(folder, beginnings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chat = tmp_path / "chat.jsonl"
    chat.write_text("".join(json.dumps({"prompt": f"the fox {i}", "kind": "ask"}) + "\n" for i in range(30)))
    flags = ["--prompts", beginnings, chat, "--shares", 2, 1, "--texts", 24, "--batch-size", 8, "--seed", 3]
    flags += ["--prompt-tokens", 4, 9, "--max-new-tokens", 6, "--output", tmp_path / "own" / "own.jsonl"]
    result = invoke(folder, *flags)
    assert result.exit_code == 0, result.output
    assert "24 of 24 answers" in result.output and "ask" in result.output
    rows = load_own_text(tmp_path / "own" / "own.jsonl")
    assert Counter(rows["kind"]) == {"stories": 16, "ask": 8}
    assert all(len(row["prompt_ids"]) in (4, 9) for row in rows if row["kind"] == "stories")
    settings = json.loads((tmp_path / "own" / "own.jsonl.settings.json").read_text())
    assert settings["model"] == str(folder) and settings["seed"] == 3 and settings["dtype"] in ("float32", "bfloat16")

    before = (tmp_path / "own" / "own.jsonl").read_bytes()
    (tmp_path / "own" / "own.jsonl").write_bytes(before[: len(before) // 2])
    assert invoke(folder, *flags).exit_code == 0
    assert (tmp_path / "own" / "own.jsonl").read_bytes() == before
    result = invoke(folder, *flags, "--seed", 4)
    assert result.exit_code == 2 and "written with seed=3, not 4" in result.stderr
    assert len(load_documents(str(tmp_path / "own" / "own.jsonl"))) > 0


def test_a_column_of_a_table_is_a_source(folder, tmp_path):
    table = tmp_path / "table.jsonl"
    table.write_text("".join(json.dumps({"body": f"{i} owls said nothing"}) + "\n" for i in range(9)))
    flags = ["--prompt-tokens", 3, "--texts", 9, "--max-new-tokens", 2, "--output", tmp_path / "own.jsonl"]
    result = invoke(folder, "--prompts", table, "--text-column", "body", *flags)
    assert result.exit_code == 0, result.output
    assert load_own_text(tmp_path / "own.jsonl")["kind"] == ["table"] * 9


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("--prompts nowhere.txt", "nowhere.txt"),
        ("--prompts stories.txt --texts 0", "--texts is 0, but it must be at least 1"),
        ("--prompts stories.txt --shares 1 2", "give a positive number for each of the 1 --prompts"),
        ("--prompts stories.txt --shares 0", "--shares [0.0]"),
        ("--prompts stories.txt --prompt-tokens 0", "--prompt-tokens [0]"),
        ("--prompts stories.txt --text 3", "did you mean --texts?"),
        ("--prompts stories.txt --dtype int8", "--dtype"),
        ("--prompts stories.txt --texts 5000", "stories.txt gives"),
        ("--prompts chat.jsonl --texts 2", "chat.jsonl, line 2"),
        ("--prompts broken.jsonl", "broken.jsonl, line 1"),
        ("--prompts stories.txt --texts 4 --max-new-tokens 300", "too many for the model's 256 positions"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(folder, beginnings, tmp_path, monkeypatch, flags, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stories.txt").write_text(beginnings.read_text())
    (tmp_path / "chat.jsonl").write_text('{"prompt": "hello"}\n{"question": "hello"}\n')
    (tmp_path / "broken.jsonl").write_text("hello\n")
    result = invoke(folder, *flags.split(), "--output", "own.jsonl")
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("tokmat own-text: ")]
    assert len(lines) == 1 and expected in lines[0] and "Traceback" not in result.output
    assert not list(tmp_path.glob("own.jsonl*"))


def test_models_that_cannot_write_are_refused(folder, story_file, tmp_path, tokenizer):
    result = invoke(tmp_path / "nowhere", "--prompts", story_file, "--output", tmp_path / "own.jsonl")
    assert result.exit_code == 2 and "there is no folder" in result.stderr
    chat, plain = tmp_path / "chat.jsonl", tmp_path / "plain"
    chat.write_text('{"prompt": "hello"}\n')
    LlamaForCausalLM.from_pretrained(folder).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    result = invoke(plain, "--prompts", chat, "--texts", 1, "--output", tmp_path / "own.jsonl")
    assert result.exit_code == 2 and "has no chat template" in result.stderr
    assert not list(tmp_path.glob("own.jsonl*"))


# -- what a chat model asks itself ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asking(folder):
    return LlamaForCausalLM.from_pretrained(folder)


def test_the_template_is_opened_up_to_what_the_user_says(chat_tokenizer):
    before = chat_tokenizer.decode(opening(chat_tokenizer))
    chat = chat_tokenizer.apply_chat_template([{"role": "user", "content": "hello there"}], tokenize=False)
    assert chat.startswith(f"{before}hello there")


@pytest.mark.parametrize(
    "template, expected",
    [
        (None, "has no chat template"),
        ("{{ messages[0]['content'] | upper }}", "shows the user's text once"),
        ("{{ messages[0]['content'] }}", "shows the user's text once"),  # nothing before it
    ],
)
def test_other_templates_are_refused(chat_tokenizer, monkeypatch, template, expected):
    monkeypatch.setattr(chat_tokenizer, "chat_template", template)
    with pytest.raises(ValueError, match=expected):
        opening(chat_tokenizer)


def test_draws_have_the_distribution_of_the_nucleus():
    scores = torch.tensor([0.5, 0.3, 0.17, 0.03]).log().expand(40_000, -1)
    drawn = Sampling((1, 2), scores.device)(None, scores).argmax(dim=-1)
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.17, 0.0]) / 0.97, atol=0.01, rtol=0)
    again, other = (Sampling(seeds, scores.device)(None, scores).argmax(dim=-1) for seeds in ((1, 2), (1, 3)))
    assert torch.equal(again, drawn) and not torch.equal(other, drawn)


def test_a_model_and_its_exact_conversion_ask_the_same(asking, chat_tokenizer):
    from trainer.conversion import from_autoregressive

    before = opening(chat_tokenizer)
    asked = ask(asking, chat_tokenizer, before, 24, (0, 0))
    assert 0 < len(asked) < 24 and len(set(asked)) == len(asked)
    converted = from_autoregressive(asking).eval()
    assert isinstance(converted, TokMatForContinuousLM)
    assert ask(converted, chat_tokenizer, before, 24, (0, 0)) == asked


def test_questions_are_kept_and_gone_on_with(asking, chat_tokenizer, tmp_path):
    def draw(count, path, load=lambda: asking, name="some"):
        source = questions(name, load, chat_tokenizer, path, 0, 16, lambda new: None)
        return [next(source) for _ in range(count)]

    path = tmp_path / "deep" / "questions.jsonl"
    expected = draw(30, path)
    assert len({tuple(prompt.ids) for prompt in expected}) == 30
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # killed within a line
    lines = whole[: len(whole) // 2].count(b"\n")
    assert draw(30, path)[:lines] == expected[:lines]
    kept = path.read_bytes()
    draw(30, path, load=None)  # all are there, and so no model is needed
    assert path.read_bytes() == kept
    with pytest.raises(ValueError, match="holds questions of some"):
        draw(1, path, name="another")
    path.write_bytes(whole + b'{"prompt": "by nobody"}\n')
    damaged = whole.count(b"\n") + 1
    with pytest.raises(ValueError, match=rf"questions.jsonl, line {damaged}, is no question"):
        draw(damaged, path)


def test_a_model_that_asks_nothing_is_refused(asking, chat_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.questions.ask", lambda *given: ["the same"])
    source = questions("some", lambda: asking, chat_tokenizer, tmp_path / "q.jsonl", 0, 4, lambda new: None)
    with pytest.raises(ValueError, match="asked 1 questions in all"):
        list(source)


def test_command_answers_its_own_questions(folder, beginnings, tmp_path):
    output = tmp_path / "own.jsonl"
    flags = ["--prompts", "self", beginnings, "--shares", 2, 1, "--texts", 12]
    flags += ["--batch-size", 8, "--max-new-tokens", 4]
    result = invoke(folder, *flags, "--output", output)
    assert result.exit_code == 0, result.output
    rows = load_own_text(output)
    assert sorted(rows["kind"]) == ["self"] * 8 + ["stories"] * 4
    asked = [json.loads(line) for line in (tmp_path / "own.jsonl.questions.jsonl").read_text().splitlines()]
    assert len(asked) >= 8 and {row["by"] for row in asked} == {str(folder)}
    before = output.read_bytes()
    assert invoke(folder, *flags, "--output", output).exit_code == 0 and output.read_bytes() == before
    result = invoke(folder, *flags, "--seed", 5, "--output", output)
    assert result.exit_code == 2 and "written with seed=0, not 5" in result.stderr
    assert output.read_bytes() == before
