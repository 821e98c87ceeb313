# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What of a folder goes up to the Hub, what must not, and the push: one commit, so that nobody sees half of it."""

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HTTPError
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from .checkpoints import ORIGIN, read_json, readable

MAX_FILE_GB = 50.0  # what the Hub takes as one file
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
WEIGHTS += ("tail_adapter.safetensors",)
CODE = ("*_tokmat.py",)
VOCABULARY = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")  # may hold any text
ALLOWED = (*WEIGHTS, *CODE, *VOCABULARY, "config.json", "generation_config.json", "adapter_config.json")
ALLOWED += ("tail_adapter_config.json", "tokenizer_config.json", "special_tokens_map.json", "*.model")
ALLOWED += ("chat_template.jinja", "additional_chat_templates/*.jinja", "eval_results.json", ORIGIN)
ALLOWED += ("README.md", "LICENSE*", "NOTICE*", "custom_generate/*.py", "custom_generate/requirements.txt")
ALLOWED += tuple(f"{folder}*.{suffix}" for folder in ("", "pictures/") for suffix in ("png", "gif", "svg", "jpg"))
OF_A_SPACE = ("*.py", "requirements.txt")
# What training leaves beside a model, to go on from.
OF_TRAINING = ("training_args.bin", "optimizer.*", "optimizer_*", "scheduler.*", "scaler.*", "rng_state*")
OF_TRAINING += ("trainer_state.json",)
FOLDERS_OF_TRAINING = ("checkpoint-*", "runs", "global_step*", ".saving-*")
NOT_LISTED = (".git", ".cache", "__pycache__")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill")
PICTURES = (".png", ".gif", ".jpg")

SECRETS = {
    "the Hub": r"\b(?:api_org|hf)_[A-Za-z0-9]{30,}\b",
    "GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{40,})\b",
    "GitLab": r"\bglpat-[\w-]{20,}",
    "AWS": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "Google": r"\bAIza[\w-]{35}",
    "OpenAI or Anthropic": r"\bsk-(?:[a-z]+-)*[\w-]{32,}",
    "Slack": r"\bxox[abprs]-[\w-]{10,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
_ROOTS = "home|Users|root|tmp|mnt|media|data|work|workspace|opt|srv|var|scratch|private|content|kaggle|storage"
_PATH_IN_TEXT = re.compile(rf"(?<![\w.:/~<-])(?:/(?:{_ROOTS})/[\w.@+-]+|[A-Za-z]:\\[\w.@+-]+)[\w./\\@+-]*")
_PATH_AS_VALUE = re.compile(r"\s*(?:(?:file://)?/[\w.@+-]+(?:/[\w.@+ -]+)+/?|~/.+|[A-Za-z]:[\\/].+)\s*")


@dataclass
class Upload:
    """What of a folder goes up.

    Args:
        folder: where the files lie. repo_type: "model" or "space". files: bytes by path in the folder. left_out: why
            not, by path. sdk: of a Space.
    """

    folder: Path
    repo_type: str
    files: dict[str, int]
    left_out: dict[str, str]
    sdk: str | None = None


def listed(folder: Path) -> Upload:
    """What of `folder` would go up by its name, whatever it holds.

    Raises:
        FileNotFoundError: no such folder. ValueError: a pickle that is no known state of training.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    sdk = front_matter(folder / "README.md").get("sdk")
    allowed = ALLOWED + (OF_A_SPACE if sdk else ())
    files, left_out = {}, {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        folders = name.split("/")[:-1]
        if any(_matches(part, FOLDERS_OF_TRAINING) for part in folders):
            left_out[f"{folders[0]}/"] = "state of training"
        elif _matches(name, OF_TRAINING):
            left_out[name] = "state of training"
        elif path.suffix.lower() in PICKLES:
            raise ValueError(
                f"{path} is a pickle, which may run code where it is loaded: save weights as safetensors, and move it"
            )
        elif name == "README.md" and not has_card(folder):
            left_out[name] = "a form to be filled in"
        elif _matches(name, allowed):
            files[name] = path.stat().st_size
        elif not set(folders) & set(NOT_LISTED):
            left_out[name] = "not part of a model"
    return Upload(folder, "space" if sdk else "model", files, left_out, sdk)


def has_card(folder: Path) -> bool:
    """Whether there is a card that somebody wrote: PEFT leaves a form to be filled in."""
    path = folder / "README.md"
    return path.is_file() and "[More Information Needed]" not in path.read_text(encoding="utf-8", errors="replace")


def prepare(folder: Path, max_file_gb: float = MAX_FILE_GB) -> Upload:
    """What of `folder` goes up, after a look into it; no network is touched.

    Raises:
        FileNotFoundError: no such folder. ValueError: nothing to push in it, or a file that must not go up: a pickle,
            one of more than `max_file_gb` * 10^9 bytes, damaged or missing weights or code, a secret, a path of this
            machine.
    """
    upload = listed(folder)
    if upload.sdk is None:
        _check_kind(folder, upload.files)
    for name, size in upload.files.items():
        if size > max_file_gb * 1e9:
            raise ValueError(f"{folder / name} has {shown_size(size)}, which is more than {max_file_gb:g} GB a file")
        _check_contents(folder / name, name in VOCABULARY)
    return upload


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    # fnmatch's * takes / too.
    return any(name.count("/") == pattern.count("/") and fnmatch(name, pattern) for pattern in patterns)


def _check_kind(folder: Path, files: dict[str, int]) -> None:
    """Raises:
    ValueError: `files` are no model, adapter or plugin, or weights or code of one are missing.
    """
    needed = {"config.json": "model*.safetensors", "adapter_config.json": "adapter_model.safetensors"}
    needed |= {"tail_adapter_config.json": "tail_adapter.safetensors"}
    found = [name for name in needed if name in files]
    if not found and "custom_generate/generate.py" not in files:
        kinds = ", ".join([*needed, "custom_generate/generate.py"])
        raise ValueError(f"{folder} holds nothing to push: it has none of {kinds}, nor the README.md of a Space")
    for name in found:
        if not any(fnmatch(file, needed[name]) for file in files):
            raise ValueError(f"{folder} has {name} but no weights, {needed[name]}")
    missing: set[str] = set()
    if "model.safetensors.index.json" in files:
        missing |= set(read_json(folder / "model.safetensors.index.json").get("weight_map", {}).values())
    if "config.json" in files:
        classes = read_json(folder / "config.json").get("auto_map", {}).values()
        missing |= {f"{value.split('.')[0]}.py" for value in classes if isinstance(value, str) and "--" not in value}
    for name in sorted(missing - files.keys()):
        raise ValueError(f"{folder} is not whole: {name}, which belongs to it, is not there")


def _check_contents(path: Path, vocabulary: bool) -> None:
    """Raises:
    ValueError: a damaged file, or one that holds a secret or a path of this machine.
    """
    if path.suffix in (".json", ".safetensors") and not readable(path):
        raise ValueError(f"{path} is damaged: it cannot be read as {path.suffix[1:]}")
    if path.suffix in (".safetensors", ".model", *PICTURES):
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    for owner, pattern in SECRETS.items():
        secret = re.search(pattern, text)
        if secret:
            raise ValueError(
                f"{path} holds what looks like a secret of {owner}, {secret[0][:6]}...: take it out, and revoke it "
                "where anybody else may have seen it"
            )
    if vocabulary:
        return
    values = list(_strings(json.loads(text))) if path.suffix == ".json" else []
    found = next((value for value in values if _PATH_AS_VALUE.fullmatch(value)), None) or _PATH_IN_TEXT.search(text)
    if found:
        shown = found if isinstance(found, str) else found[0]
        raise ValueError(f"{path} holds {shown.strip()!r}, a path of this machine: give a name that others can use")


def _strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def front_matter(path: Path) -> dict:
    """What stands between the first lines of --- of a card, {} where there is no such file.

    Raises:
        ValueError: it is no YAML.
    """
    found = REGEX_YAML_BLOCK.search(path.read_text(encoding="utf-8")) if path.is_file() else None
    try:
        values = yaml.safe_load(found[2]) if found else {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} begins with what is no YAML: {error}") from error
    return values if isinstance(values, dict) else {}


def shown_size(size: int) -> str:
    """Bytes in the largest unit of at least one."""
    for unit, amount in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= amount:
            return f"{size / amount:.1f} {unit}"
    return f"{size} B"


# -- the push ---------------------------------------------------------------------------------------------------------


def check_repo_id(repo_id: str) -> None:
    """Raises:
    ValueError: not of the form owner/name.
    """
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", repo_id) or len(repo_id) > 96:
        raise ValueError(f"REPO_ID is {repo_id!r}, but it must have the form owner/name, of letters, digits, -, _, .")


def check_token(token: str | None = None) -> None:
    """Raises:
    ValueError: neither given nor stored here.
    """
    if not (token or get_token()):
        raise ValueError("there is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN")


def push(
    upload: Upload,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    commit_message: str | None = None,
) -> CommitInfo:
    """Put the files up as one commit of a repository, which is made if it does not exist.

    Weights and code of an earlier push that are not among the files are removed by the same commit: transformers would
    load them beside, or instead of, the new ones. What has been uploaded before an interruption is not sent again.

    Args:
        private: make a new repository private. revision: a branch, made if it does not exist; main if None.
        create_pr: open a pull request instead. token: the one that is stored here, if None.

    Raises:
        ValueError: no token, a wrong `repo_id`, or a public repository with `private`.
        OSError: the Hub cannot be reached, or refuses.
    """
    check_repo_id(repo_id)
    check_token(token)
    try:
        return _commit(HfApi(token=token), upload, repo_id, private, revision, create_pr, commit_message)
    except (OSError, RuntimeError, HTTPError) as error:
        raise OSError(
            f"the push to {repo_id} did not finish: {_reason(error)}. Only a whole push is ever seen there; the same "
            "command can be repeated"
        ) from error


def _commit(api: HfApi, upload: Upload, repo_id: str, private, revision, create_pr, message) -> CommitInfo:
    kind: dict[str, Any] = {"repo_type": upload.repo_type}
    # Not `private=False`: an organisation may make its repositories private unless told.
    api.create_repo(repo_id, private=private or None, exist_ok=True, space_sdk=upload.sdk, **kind)
    if private and not api.repo_info(repo_id, **kind).private:
        raise ValueError(f"{repo_id} exists and is public, so --private cannot be kept: make it private there first")
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True, **kind)
    there = api.list_repo_files(repo_id, revision=revision, **kind)
    old = [name for name in there if name not in upload.files and _matches(name, WEIGHTS + CODE)]
    operations: list = [CommitOperationAdd(name, str(upload.folder / name)) for name in upload.files]
    operations += [CommitOperationDelete(name) for name in old]
    message = message or f"Upload {upload.repo_type} with tokmat"
    return api.create_commit(
        repo_id, operations, commit_message=message, revision=revision, create_pr=create_pr, **kind
    )


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None and getattr(error, "response", None) is None:
        error = error.__cause__
    response = getattr(error, "response", None)
    if response is None:
        return f"the Hub cannot be reached ({' '.join(str(error).split()) or type(error).__name__})"
    told = {401: "it does not accept the token", 403: "the token may not write there"}
    told[404] = "there is no such repository or revision, or the token may not see it"
    said = getattr(error, "server_message", None) or " ".join(str(error).split())
    return f"{told.get(response.status_code, 'it refused')} (HTTP {response.status_code}: {said[:300]})"
