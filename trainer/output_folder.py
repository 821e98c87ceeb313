# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What a training run's output folder holds: checkpoints, complete or not, and the finished model."""

import json
import os
import shutil
import tempfile
from pathlib import Path


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
