# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Saved models and the folders that hold them: checkpoints, complete or not, and the finished model."""

import json
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer

from modeling_tokmat import TokMatConfig


def is_finished(folder: Path) -> bool:
    """Whether a model was saved in `folder`; its config.json is moved there last."""
    return (folder / "config.json").is_file()


def checkpoints(folder: Path) -> list[Path]:
    """The `checkpoint-<step>` folders, last step first."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and path.name[11:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[11:]), reverse=True)


def missing_from(checkpoint: Path) -> list[str]:
    """What a checkpoint lacks: nothing if it is complete."""
    missing = [] if any(checkpoint.glob("*.safetensors")) else ["model weights"]
    missing += [name for name in ("optimizer.pt", "scheduler.pt") if not (checkpoint / name).is_file()]
    try:  # written last
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        missing.append("trainer_state.json")
    return missing


def last_complete_checkpoint(folder: Path) -> Path | None:
    for path in checkpoints(folder):
        missing = missing_from(path)
        if not missing:
            return path
        print(f"Skipping {path}: incomplete, without {' and '.join(missing)}.", flush=True)
    return None


def find_checkpoint(folder: Path, resume: str | None, overwrite: bool) -> Path | None:
    """The checkpoint to resume from, None to begin.

    Raises:
        FileNotFoundError: `resume` is a path that holds no complete checkpoint.
        ValueError: the folder is in use and neither argument says what to do with it.
    """
    if resume is not None and resume.lower() not in ("last", "true"):
        missing = missing_from(Path(resume))
        if missing:
            problem = f"has no {' and no '.join(missing)}" if Path(resume).is_dir() else "does not exist"
            raise FileNotFoundError(f"--resume-from-checkpoint {resume}: the folder {problem}")
        return Path(resume)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output-dir {folder} is a file")
    if resume is not None:
        found = last_complete_checkpoint(folder)
        if found is not None:
            return found
        print(f"{folder} holds no complete checkpoint: training begins at step 0.", flush=True)
    in_use = "a finished model" if is_finished(folder) else "checkpoints" if checkpoints(folder) else None
    if in_use and not overwrite and (resume is None or is_finished(folder)):
        raise ValueError(
            f"--output-dir {folder} already holds {in_use}: go on from its last checkpoint with "
            "--resume-from-checkpoint last, replace it with --overwrite, or choose another folder"
        )
    return None


def remove_outputs(folder: Path) -> None:
    for path in checkpoints(folder):
        shutil.rmtree(path)
    for pattern in ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"):
        for path in folder.glob(pattern):
            path.unlink()


def save_whole(save, folder: Path) -> None:
    """`save(temporary_folder)`, then move the files: a reader never sees half of one, and config.json comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
        save(temporary)
        for path in sorted(Path(temporary).iterdir(), key=lambda path: path.name == "config.json"):
            os.replace(path, folder / path.name)


# -- loading ----------------------------------------------------------------------------------------------------------


def load_pretrained(load, name: str, **kwargs):
    """`load(name)`, with an error that says in one sentence what is wrong with the name.

    A name below a folder that exists is taken for a path; others of the form "name" or "owner/name" are the Hub's.

    Raises:
        OSError: there is no such folder or Hub repository.
    """
    local = Path(name).expanduser()
    if local.is_dir():
        if load != AutoTokenizer.from_pretrained and not is_finished(local):
            saved = next((path for path in checkpoints(local) if not missing_from(path)), None)
            hint = f"; its last checkpoint is {saved}" if saved else ""
            raise FileNotFoundError(f"{name} holds no config.json{hint}")
        return load(str(local), **kwargs)
    a_path = local.exists() or ("/" in name and local.parent.is_dir())
    if a_path or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):
        raise FileNotFoundError(f"there is no folder {name}")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # of its retries the result is enough
    try:
        return load(name, **kwargs)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise OSError(f"{name} is neither a folder nor a Hub repository that can be reached ({reason})") from error


def tokmat_config(name: str, **kwargs) -> TokMatConfig:
    """The configuration of a saved TokMat model.

    Raises:
        OSError: there is no such model. ValueError: it is of another kind.
    """
    if (
        "/" not in name and not Path(name).expanduser().is_dir()
    ):  # the Hub has models without an owner, but none of ours
        raise FileNotFoundError(f"there is no folder {name}, and a Hub name has the form owner/name")
    config = load_pretrained(AutoConfig.from_pretrained, name, trust_remote_code=True, **kwargs)
    if config.model_type != TokMatConfig.model_type:
        raise ValueError(f"{name} is a {config.model_type} model, not a TokMat model")
    return config
