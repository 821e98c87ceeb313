# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The page: its numbers are the models', its errors sentences, and runs at once keep apart. The browser's side is in
tests/slow/test_space_browser.py."""

import json
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from command_line import assert_one_line_error, invoke

from trainer.checkpoints import load_model, load_tokenizer
from trainer.evaluation.metrics import repeated_ngrams
from trainer.hub import front_matter, prepare
from trainer.space import runs
from trainer.space.runs import LONGEST_PROMPT, LONGEST_TAIL, MOST_NEW_TOKENS, Duel
from trainer.streamers import decode_stable

SPACE = Path(__file__).parents[1] / "hub_cards" / "space"
NEW = 14


@pytest.fixture(scope="module")
def duel(models):
    return Duel(load_model(models[0]), load_model(models[2]), load_tokenizer(models[0]))


def text_of(tokens):
    return "".join(text for text, _ in tokens)


@pytest.mark.parametrize(
    "settings",
    [
        {"tail_length": 4},
        {"tail_length": 1},
        {"tail_length": 5, "commit": "stable", "schedule": "power"},
        {"tail_length": 6, "commit": "verified", "schedule": "geometric"},
        {"tail_length": 4, "guidance_scale": 2.0, "embryo_norm": 1.0, "history_noise": 0.3, "schedule": "cosine"},
    ],
)
def test_what_a_page_gets_is_what_the_models_say(duel, settings):
    prompt = "Once upon a time there was a caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    shown = json.loads(json.dumps(duel.run(prompt, NEW, **settings)))
    ids = duel.tokenizer(prompt, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    special = {"schedule_beta": 2.0, "schedule_gamma": 0.8, "max_refinements": 4, "commit": "front"}
    asked = {"max_new_tokens": NEW, "output_maturation": True, "return_dict_in_generate": True}
    output = duel.tokmat.generate(ids, **asked, **(special | settings))
    ours = output.sequences[0].tolist()
    theirs = duel.twin.generate(ids, max_new_tokens=NEW, do_sample=False)[0].tolist()

    for tokens, written in ((shown["tokens"], ours), (shown["twin"], theirs)):
        assert shown["prompt"] + text_of(tokens) == decode_stable(duel.tokenizer, written)
        assert [repeated for _, repeated in tokens] == repeated_ngrams(written)[start:]
    assert shown["repeated"]["twin"] == pytest.approx(sum(repeated_ngrams(theirs)[start:]) / NEW, abs=1e-3)
    assert shown["forwards"] == output.num_forwards
    assert shown["tokens_per_forward"] == pytest.approx(output.tokens_per_forward, abs=1e-3)

    done = 0
    for step, told in zip(shown["steps"], output.maturation, strict=True):
        assert step["start"] == done == told.position.item()
        done += step["committed"]
        tail = told.token_ids[0].tolist()
        before = decode_stable(duel.tokenizer, ours[: start + step["start"]])
        whole = decode_stable(duel.tokenizer, ours[: start + step["start"]] + tail)
        assert before + "".join(text for text, _ in step["tail"]) == whole
        assert [slot for _, slot in step["tail"]] == sorted({slot for _, slot in step["tail"]})
        assert (
            step["top"] == told.top_ids[0].tolist() and {str(i) for i in sum(step["top"], [])} <= shown["names"].keys()
        )
        for name, field in (("maturity", "maturity"), ("distance", "distance"), ("entropy", "entropy_scaled")):
            expected = told[field].flatten()
            torch.testing.assert_close(torch.tensor(step[name]), expected, atol=6e-4, rtol=0)
        torch.testing.assert_close(torch.tensor(step["cosines"]), told.top_cosines[0], atol=6e-4, rtol=0)
    assert done == len(shown["tokens"]) == len(ours) - start


def test_a_setting_makes_another_run(duel):
    assert duel.run("The fox", NEW, tail_length=4) == duel.run("The fox", NEW, tail_length=4)
    assert duel.run("The fox", NEW, tail_length=4) != duel.run("The fox", NEW, tail_length=4, embryo_norm=1.0)


def test_names_show_spaces_ends_and_parts_of_characters(duel):
    tokenizer = duel.tokenizer
    part, *_ = tokenizer("\N{EURO SIGN}", add_special_tokens=False)["input_ids"]
    (space,) = tokenizer(" fox", add_special_tokens=False)["input_ids"]
    assert duel._name(tokenizer.eos_token_id) == "[end of text]"
    assert duel._name(space) == "\N{OPEN BOX}fox" and re.fullmatch(r"\[.+\]", duel._name(part))


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({"prompt": "x" * (LONGEST_PROMPT + 1)}, f"at most {LONGEST_PROMPT}"),
        ({"prompt": None}, "`prompt` is None"),
        ({"prompt": "\ud83d"}, "UTF-8"),
        ({"prompt": "\N{EURO SIGN}" * LONGEST_PROMPT}, "1024 positions"),
        ({"new_tokens": MOST_NEW_TOKENS + 1}, f"[1, {MOST_NEW_TOKENS}]"),
        ({"new_tokens": 0}, "`new_tokens` is 0"),
        ({"new_tokens": "5"}, "`new_tokens` is '5'"),
        ({"tail_length": LONGEST_TAIL + 1}, f"[1, {LONGEST_TAIL}]"),
        ({"tail_length": True}, "`tail_length` is True"),
        ({"embryo_norm": float("nan")}, "`embryo_norm` is nan"),
        ({"history_noise": -1}, "`history_noise` is -1"),
        ({"guidance_scale": None, "schedule": "up"}, "`schedule` is 'up'"),
        ({"schedule": ["linear"]}, "`schedule` is ['linear']"),
        ({"commit": "never"}, "one of front, stable, verified"),
        ({"commit": "verified", "guidance_scale": 2.0}, 'with commit="verified"'),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_before_anything_runs(duel, changed, expected, monkeypatch):
    monkeypatch.setattr(duel.tokmat.backbone, "forward", lambda *args, **kwargs: pytest.fail("it ran"))
    with pytest.raises(ValueError) as error:
        duel.run(**({"prompt": "a", "new_tokens": 3} | changed))
    told = str(error.value)
    assert expected in told and "\n" not in told and told.endswith(".") and len(told) < 300


def test_the_longest_run_is_bounded(duel):
    shown = duel.run("", MOST_NEW_TOKENS, commit="stable", tail_length=LONGEST_TAIL)
    assert len(shown["steps"]) <= 4 * MOST_NEW_TOKENS and len(json.dumps(shown)) < 1e6


def test_runs_at_once_keep_apart(duel):
    prompts = ["The fox lived in", "One day the owl", "The river was", "Once upon a time"]
    alone = [duel.run(prompt, 30, tail_length=4, embryo_norm=1.0) for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(lambda prompt: duel.run(prompt, 30, tail_length=4, embryo_norm=1.0), prompts))
    assert together == alone


# -- the app ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(duel, monkeypatch):
    """serve() -> (the page, its address): the app on a port of this machine, for the test."""
    pytest.importorskip("gradio")
    from trainer.space import app

    pages = []

    def serve():
        monkeypatch.setattr(Duel, "from_the_box", classmethod(lambda cls: duel))
        monkeypatch.delenv("GRADIO_SERVER_NAME", raising=False)
        page, address = app.launch(prevent_thread_lock=True, quiet=True)
        pages.append(page)
        return page, address

    yield serve
    for page in pages:
        page.close()


def client_of(address):
    from gradio_client import Client

    return Client(address, verbose=False)


def asked(prompt, **changed):
    values = {"prompt": prompt, "new_tokens": 8, "tail_length": 4, "guidance": 1, "embryo_norm": 0.1}
    values |= {"history_noise": 0, "schedule": "linear", "commit": "front"} | changed
    return tuple(values.values())


def test_the_page_is_served_here_alone_and_answers(served, duel):
    import httpx

    page, address = served()
    assert address.startswith("http://127.0.0.1:") and page.server_name == "127.0.0.1"
    front = httpx.get(address).text
    assert "Watch text mature" in front and "Token Maturation" in front
    assert "fonts.googleapis" not in front and "fonts.gstatic" not in json.dumps(page.config)
    players = [part for part in page.config["components"] if part["props"].get("elem_id") == "player"]
    first = players[0]["props"]["value"]
    assert len(first["steps"]) == len(first["tokens"]) > first["at"] > 0

    client, other = client_of(address), client_of(address)
    hostile = '<script>alert("1")</script> & </textarea>'
    jobs = [client.submit(*asked(hostile), api_name="/watch"), other.submit(*asked("The owl"), api_name="/watch")]
    for job, prompt in zip(jobs, (hostile, "The owl")):
        assert job.result(60) == json.loads(json.dumps(duel.run(prompt, 8, tail_length=4)))
    assert jobs[0].result()["prompt"] == hostile

    for wrong in (asked("x" * 600), asked("a", commit="verified", guidance=3)):
        answer = client.predict(*wrong, api_name="/watch")
        assert answer.keys() == {"error"} and answer["error"].endswith(".")
    with pytest.raises(Exception, match="greater than maximum value 16"):  # gradio's own sentence about a slider
        client.predict(*asked("a", tail_length=99), api_name="/watch")


def test_runs_beyond_the_limit_wait_and_beyond_the_queue_are_refused(served, duel, monkeypatch):
    from trainer.space import app

    monkeypatch.setattr(app, "WAITING", 4)
    page, address = served()
    running, most, gate, full = set(), [], threading.Event(), threading.Event()

    def slowly(self, prompt, *args, **settings):
        running.add(prompt)
        most.append(len(running))
        if len(running) == app.RUNS_AT_ONCE:
            full.set()
        gate.wait(60)
        running.discard(prompt)
        return {"error": f"{prompt}."}

    monkeypatch.setattr(Duel, "run", slowly)
    jobs = [client_of(address).submit(*asked(f"first {n}"), api_name="/watch") for n in range(app.RUNS_AT_ONCE)]
    assert full.wait(60)
    jobs += [client_of(address).submit(*asked(f"run {n}"), api_name="/watch") for n in range(6)]
    time.sleep(1)  # for all of them to arrive
    gate.set()
    answers, refused = [], []
    for job in jobs:
        try:
            answers.append(job.result(60)["error"])
        except Exception as error:  # gradio_client's class for what the server refused
            refused.append(str(error))
    assert max(most) == app.RUNS_AT_ONCE and len(answers) >= app.RUNS_AT_ONCE + 1
    assert len(answers) + len(refused) == len(jobs) and refused


def test_texts_reach_the_page_as_text():
    script = (Path(runs.__file__).parent / "player.js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\$\{value\}", script)


def test_every_part_that_the_script_asks_for_is_in_the_page():
    folder = Path(runs.__file__).parent
    script, html = ((folder / name).read_text(encoding="utf-8") for name in ("player.js", "player.html"))
    asked_for = set(re.findall(r'part\("([\w-]+)"\)', script))
    assert len(asked_for) > 10 and asked_for <= set(re.findall(r'data-part="([\w-]+)"', html))
    assert "${" not in html and "{{" not in html  # gradio would take them for templates


# -- how it is started ------------------------------------------------------------------------------------------------


def test_demo_page_starts_it(monkeypatch):
    pytest.importorskip("gradio")
    from trainer.space import app

    started = []
    monkeypatch.setattr(app, "launch", lambda: started.append(True))
    assert invoke("demo", "--page").exit_code == 0 and started == [True]
    assert_one_line_error(invoke("demo", "--page", "--train"), "--page and --train")


def test_without_gradio_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "trainer.space.app", raising=False)
    assert_one_line_error(invoke("demo", "--page"), "gradio", 'pip install "tokmat[demo]"')


def test_the_folder_is_a_space():
    upload = prepare(SPACE)
    card = front_matter(SPACE / "README.md")
    assert upload.repo_type == "space" and upload.sdk == card["sdk"] == "gradio"
    assert {"README.md", "app.py", "requirements.txt"} <= upload.files.keys() and card["app_file"] == "app.py"
    pins = (SPACE.parents[1] / "constraints.txt").read_text(encoding="utf-8")
    assert f"gradio=={card['sdk_version']}\n" in pins  # what the tests ran with
    assert (SPACE / "requirements.txt").read_text(encoding="utf-8").split() == ["tokmat[demo]"]
    text = (SPACE / "README.md").read_text(encoding="utf-8")
    for number in (f"{LONGEST_PROMPT} characters", f"{MOST_NEW_TOKENS} tokens", f"{4 * MOST_NEW_TOKENS} steps"):
        assert number in text
    assert all((SPACE / name).is_file() for name in re.findall(r"\]\((\S+\.png)\)", text))
