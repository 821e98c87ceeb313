# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Pushes and loads over HTTP: the unmodified huggingface_hub client, in processes of its own, and a server on
localhost that speaks the Hub's endpoints (tests/hub_server.py)."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hub_server import running_hub
from test_remote_code import PRELUDE

from modeling_tokmat import TokMatForContinuousLM
from trainer.checkpoints import load_model, load_tokenizer
from trainer.conversion import from_autoregressive
from trainer.tail_adapter import save_tail_adapter

ROOT = Path(__file__).parents[1]
WRITER, READER = "hf_" + "w" * 34, "hf_" + "r" * 34
RUNS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from command_line import invoke

def run(*arguments):
    result = invoke(*arguments)
    print(result.output, file=sys.stderr)
    return result.exit_code, " ".join(result.output.split())

def ok(*arguments):
    code, output = run(*arguments)
    assert code == 0, output
    return output

def fails(*arguments, says):
    code, output = run(*arguments)
    lines = output.split("tokmat push: ")[1:]
    assert code == 2 and len(lines) == 1 and says in lines[0], output
"""


class Client:
    """Processes that have the server for the Hub, and homes without any cache."""

    def __init__(self, address: str, folder: Path):
        self.address, self.folder, self.homes = address, folder, 0

    def run(self, code: str, *arguments, token: str | None = WRITER) -> str:
        self.homes += 1
        home = self.folder / f"home-{self.homes}"
        environment = {"HF_ENDPOINT": self.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1,localhost"}
        environment |= {"HF_TOKEN": token} if token else {}
        kept = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
        command = [sys.executable, "-c", code, *map(str, arguments)]
        run = subprocess.run(
            command, env=kept | environment, cwd=self.folder, capture_output=True, text=True, timeout=280
        )
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
        return run.stdout

    def tokmat(self, code: str, *arguments, **kwargs) -> str:
        """Code that has `ok` and `fails`, for commands of tokmat."""
        return self.run(RUNS + textwrap.dedent(code), Path(__file__).parent, *arguments, **kwargs)

    def isolated(self, code: str, *arguments, **kwargs) -> str:
        """Code that cannot import this package."""
        return self.run(PRELUDE + textwrap.dedent(code), *arguments, **kwargs)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_hub() as (hub, address):
        yield hub, Client(address, tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def pushed(server, trained, models, tmp_path_factory):
    """What was told of each push of a model, a tail adapter, the plugin, a metric and a private model."""
    _, client = server
    folder = tmp_path_factory.mktemp("pushed")
    fields = {"tail_adapter_rank": 4, "train": "tail", "parallel_tails": 2, "film_scope": "tail", "max_tail_length": 8}
    save_tail_adapter(from_autoregressive(load_model(str(models[2])), **fields), folder / "tail", "me/base")
    model = TokMatForContinuousLM.from_pretrained(models[0])
    model.save_pretrained(folder / "private")
    for name in ("tail", "private"):
        (folder / name / "README.md").write_text("---\nlicense: mit\n---\n# By hand\n")
    out = client.tokmat(
        """
        trained, folder, root = sys.argv[2:]
        told = {
            "story": ok("push", trained, "me/story"),
            "again": ok("push", trained, "me/story"),
            "branch": ok("push", trained, "me/story", "--revision", "v1"),
            "tail": ok("push", folder + "/tail", "me/tail"),
            "plugin": ok("push", root + "/hub_cards/maturation_generate", "me/maturation"),
            "metric": ok("push", root + "/hub_cards/self_bleu", "me/self_bleu"),
            "private": ok("push", folder + "/private", "me/private", "--private"),
            "request": ok("push", folder + "/private", "me/story", "--create-pr"),
        }
        fails("push", folder + "/private", "me/story", "--private", says="exists and is public")
        print("told" + json.dumps(told))
        """,
        *(trained[0], folder, ROOT),
    )
    return json.loads(out.rpartition("told")[2]), folder


def test_a_push_is_one_commit_of_model_code_tokenizer_and_card(server, pushed, trained):
    hub, _ = server
    told, _ = pushed
    files = hub.files("me/story")
    code = {path.name: path.read_bytes() for path in (ROOT / "modeling_tokmat").glob("*_tokmat.py")}
    assert code.items() <= files.items()
    for name in ("model.safetensors", "tokenizer.json", "config.json", "generation_config.json", "origin.json"):
        assert files[name] == (trained[0] / name).read_bytes()
    assert not any(name.endswith((".bin", ".pt", ".pth")) or "checkpoint" in name for name in files)
    card = files["README.md"].decode()
    assert 'from_pretrained("me/story"' in card and "It printed:" in card and "/tmp" not in card
    repository = hub.repositories["models", "me/story"]
    # The first is the empty one that a repository begins with; the same files a second time make no commit.
    assert len(repository.commits) == 4 and set(repository.branches) == {"main", "v1", "refs/pr/1"}
    assert all(f'revision="{repository.branches["main"]}"' in told[name] for name in ("story", "again"))
    assert hub.files("me/story", revision="v1") == files
    assert hub.log.count(f"PUT /lfs/{hashlib.sha256(files['model.safetensors']).hexdigest()}") == 1


def test_a_request_replaces_and_says_where(server, pushed):
    hub, _ = server
    told, folder = pushed
    proposed = hub.files("me/story", revision="refs/pr/1")
    assert proposed["model.safetensors"] == (folder / "private" / "model.safetensors").read_bytes()
    assert "/me/story/discussions/1" in told["request"]
    assert hub.repositories["models", "me/private"].private and not hub.repositories["models", "me/story"].private
    assert set(hub.files("me/self_bleu", "spaces")) == {"README.md", "app.py", "self_bleu.py", "requirements.txt"}


def test_what_was_pushed_loads_by_its_name_at_a_pinned_revision(server, pushed, trained, tmp_path):
    hub, client = server
    ids, settings = torch.arange(2, 12)[None], {"max_new_tokens": 8, "tail_length": 3}
    model = TokMatForContinuousLM.from_pretrained(trained[0]).eval()
    torch.save(model.generate(ids, **settings), tmp_path / "expected.pt")
    out = client.isolated(
        """
        expected, run = torch.load(sys.argv[2]), {"max_new_tokens": 8, "tail_length": 3}
        remote = {"revision": sys.argv[3], "trust_remote_code": True}
        model = AutoModelForCausalLM.from_pretrained(folder, **remote).eval()
        assert type(model).__module__.startswith("transformers_modules.me.story"), type(model).__module__
        assert sys.argv[3] in type(model).__module__
        assert torch.equal(model.generate(ids, **run), expected)
        tokenizer = AutoTokenizer.from_pretrained(folder, **remote)
        assert tokenizer.decode(tokenizer("The fox").input_ids) == "The fox"
        generator = pipeline("text-generation", model=folder, revision=sys.argv[3], trust_remote_code=True)
        assert generator("The fox", max_new_tokens=4)[0]["generated_text"].startswith("The fox")
        plugin = {"custom_generate": "me/maturation", "trust_remote_code": True}
        assert torch.equal(model.generate(ids, **plugin, **run), expected)
        for name, arguments in (("me/private", {}), ("me/story", {"revision": "0" * 40}), ("me/none", {})):
            try:
                AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True, **arguments)
            except OSError as error:
                print(name, str(error).splitlines()[0])
            else:
                raise SystemExit(name + " was loaded")
        print("ok")
        """,
        *("me/story", tmp_path / "expected.pt", hub.repositories["models", "me/story"].branches["main"]),
        token=None,
    )
    assert out.endswith("ok\n") and "me/private" in out


@pytest.mark.slow
def test_a_tail_adapter_is_attached_by_its_name(server, pushed, models, tmp_path):
    _, client = server
    client.tokmat('ok("attach", sys.argv[2], "me/tail", sys.argv[3])', models[2], tmp_path / "attached", token=None)
    model, source = (load_model(str(path)).eval() for path in (tmp_path / "attached", models[2]))
    assert model.config.tail_adapter_rank == 4
    ids = load_tokenizer(str(models[2]))("The fox lived", return_tensors="pt").input_ids
    texts = [part.generate(ids, max_new_tokens=8, do_sample=False) for part in (model, source)]
    assert torch.equal(*texts)


@pytest.mark.slow
def test_a_push_that_fails_says_why_and_can_be_repeated(server, models, tmp_path):
    hub, client = server
    model = TokMatForContinuousLM.from_pretrained(models[1])
    model.save_pretrained(tmp_path / "whole", max_shard_size="100KB")
    model.save_pretrained(tmp_path / "one")
    for name in ("whole", "one"):
        (tmp_path / name / "README.md").write_text("# By hand\n")
    shards = sorted(path.name for path in (tmp_path / "whole").glob("model-*.safetensors"))
    assert len(shards) > 1
    hub.dies_at = {"PUT /lfs/": 1, "POST /api/models/me/second/commit": 1}
    client.tokmat('fails("push", sys.argv[2], "me/second", says="the Hub cannot be reached")', tmp_path / "whole")
    assert hub.files("me/second") == {} and not any(hub.dies_at.values())
    sent = sum(entry.startswith("PUT") for entry in hub.log)
    client.tokmat(
        """
        whole, one = sys.argv[2:]
        ok("push", whole, "me/second")
        fails("push", whole, "other/second", says="may not write there (HTTP 403")
        """,
        *(tmp_path / "whole", tmp_path / "one"),
    )
    assert sum(entry.startswith("PUT") for entry in hub.log) == sent  # the weights were there already
    assert set(shards) < hub.files("me/second").keys()
    client.tokmat(
        """
        import os
        os.environ["HF_TOKEN"] = sys.argv[3]
        fails("push", sys.argv[2], "me/second", says="may not write there (HTTP 403")
        os.environ["HF_TOKEN"] = "hf_" + "n" * 34
        fails("push", sys.argv[2], "me/second", says="it does not accept the token (HTTP 401")
        os.environ["HF_TOKEN"] = ""
        fails("push", sys.argv[2], "me/second", says="there is no token for the Hub")
        os.environ["HF_TOKEN"] = sys.argv[4]
        ok("push", sys.argv[2], "me/second")
        """,
        *(tmp_path / "one", READER, WRITER),
    )
    # Weights of one file would be taken before those in parts, and the other way round: the old ones are gone.
    assert not set(shards) & hub.files("me/second").keys() and "model.safetensors" in hub.files("me/second")
    assert "model.safetensors.index.json" not in hub.files("me/second")


@pytest.mark.slow
def test_push_to_hub_and_trainers_carry_code_and_card(server, models, story_file):
    hub, client = server
    client.tokmat(
        """
        import torch
        from transformers import Trainer, TrainingArguments
        from modeling_tokmat import TokMatForContinuousLM
        model = TokMatForContinuousLM.from_pretrained(sys.argv[2])
        model.push_to_hub("me/mixin")
        rows = [{"input_ids": torch.arange(2, 26) + i, "labels": torch.arange(2, 26) + i} for i in range(4)]
        known = {"push_to_hub": True, "save_strategy": "no", "max_steps": 1, "report_to": "none", "use_cpu": True}
        trainer = Trainer(model, TrainingArguments("plain", hub_model_id="me/plain", **known), train_dataset=rows)
        trainer.train()
        trainer.push_to_hub()
        command = ["train", "--data", sys.argv[3], "--output-dir", "run", "--backbone", "tiny", "--max-steps", 4]
        command += ["--block-size", 32, "--vocab-size", 300, "--save-steps", 2, "--push-to-hub"]
        ok(*command, "--hub-model-id", "me/run")
        code, output = run(*command, "--overwrite", "--hub-strategy", "checkpoint")
        assert code == 2 and "`hub_strategy` is 'checkpoint'" in output, output
        """,
        *(models[0], story_file),
    )
    for name in ("me/mixin", "me/plain", "me/run"):
        files = hub.files(name)
        code = {path.name: path.read_bytes() for path in (ROOT / "modeling_tokmat").glob("*_tokmat.py")}
        assert code.items() <= files.items(), name
        assert {"model.safetensors", "config.json", "generation_config.json", "README.md"} <= files.keys()
    assert b"token-maturation" in hub.files("me/mixin")["README.md"]
    repository = hub.repositories["models", "me/run"]
    seen = list(repository.commits.values())[1:]
    assert len(seen) >= 2 and all("tokenizer.json" in files and "config.json" in files for files in seen)
    assert not any(name.endswith((".bin", ".pt")) or "/" in name for files in seen for name in files)
    card = hub.files("me/run")["README.md"].decode()
    assert 'from_pretrained("me/run"' in card and "| data | stories.txt |" in card and "was run" not in card
