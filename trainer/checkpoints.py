# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Saved models and the folders that hold them: checkpoints, complete or not, and the finished model."""

import json
import logging
import os
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from modeling_tokmat import TokMatConfig, TokMatForContinuousLM

SAVING = ".saving-checkpoint"  # where a checkpoint is written before it is moved into its place
REPLACING = ".saving-replacing"  # where what is replaced is gathered,
REPLACED = ".saving-replaced"  # and where all of it lies until something whole has taken its place
ORIGIN = "origin.json"  # what a model was made from: its base, its data, how it was trained
# What a finished run leaves beside its checkpoints.
OUTPUTS = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")
OUTPUTS += ("eval_results.json", "trainer_state.json", "training_args.bin", "tail_adapter_config.json", ORIGIN)
OUTPUTS += ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
OUTPUTS += ("merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "chat_template.jinja", "*_tokmat.py")
# Models that come with the package, by the names that commands know them by.
STORIES, AR_STORIES = "stories", "ar-stories"
SHIPPED = {STORIES: "tokmat-stories", AR_STORIES: "ar-stories"}


def check_folder(name: str, told: str = "--output ") -> None:
    """Raises:
    ValueError: `name`, `told` as that of --output, cannot be a folder because a file is there, or above it.
    """
    file = next((path for path in (Path(name), *Path(name).parents) if path.is_file()), None)
    if file is not None:
        raise ValueError(f"{told}{name} cannot be a folder: {file} is a file")


def check_new(folder: Path) -> None:
    """Raises:
    ValueError: a model cannot be saved in `folder`, which holds one or part of one, or cannot be a folder.
    """
    check_folder(str(folder), "")
    if is_finished(folder):
        raise ValueError(f"{folder} already holds a model: choose another folder, or delete it")
    parts = (path.name for pattern in (*OUTPUTS, "adapter_config.json") for path in folder.glob(pattern))
    if (part := next(parts, None)) is not None:
        raise ValueError(f"{folder} already holds {part}, a part of some model: choose another folder, or delete it")


def is_finished(folder: Path) -> bool:
    """Whether a model was saved in `folder`; its config.json is moved there last."""
    return (folder / "config.json").is_file()


def checkpoints(folder: Path) -> list[Path]:
    """The `checkpoint-<step>` folders, last step first."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and path.name[11:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[11:]), reverse=True)


def missing_from(checkpoint: Path) -> list[str]:
    """What a checkpoint lacks, or holds damaged: nothing if it is whole."""
    weights = list(checkpoint.glob("*.safetensors"))
    found = [] if weights else ["model weights"]
    found += [f"a readable {path.name}" for path in weights if not readable(path)]
    for index in checkpoint.glob("*.safetensors.index.json"):
        shards = set(json.loads(index.read_text()).get("weight_map", {}).values()) if readable(index) else set()
        found += [name for name in sorted(shards) if not (checkpoint / name).is_file()]
    for name in ("optimizer.pt", "scheduler.pt"):
        found += [] if (checkpoint / name).is_file() else [name]
    archives = [path for pattern in ("*.pt", "*.pth") for path in sorted(checkpoint.glob(pattern))]
    found += [f"a readable {path.name}" for path in archives if not readable(path)]
    state = checkpoint / "trainer_state.json"  # written last
    found += ["trainer_state.json"] if not readable(state) else []
    others = [path for path in sorted(checkpoint.glob("*.json")) if path != state]
    return found + [f"a readable {path.name}" for path in others if not readable(path)]


def readable(path: Path) -> bool:
    """Whether a file can be read to its end, by what its suffix says it is."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt"):  # compares the header with the size
                pass
        else:
            with zipfile.ZipFile(path) as archive:
                return archive.testzip() is None
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile):
        return False
    return True


def read_json(path: Path) -> dict:
    """The object in a JSON file, {} where there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: it is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is a JSON {type(values).__name__}, but it must be an object")
    return values


def public_name(name: str) -> str:
    """Of a folder or file its name alone, so that no path of this machine is told; a Hub name as it is."""
    path = Path(name).expanduser()
    return path.resolve().name if path.exists() else name


def base_model(source: str) -> str | None:
    """The Hub name that the model `source` has or was made from, None where that is not known."""
    path = Path(in_the_box(source)).expanduser()
    return read_json(path / ORIGIN).get("base_model") if path.exists() else source


def save_origin(folder: Path, **values) -> None:
    """Note in `folder` what is known of where a model comes from."""
    known = {name: value for name, value in values.items() if value}
    if known:
        (folder / ORIGIN).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def whole_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that lacks nothing."""
    return next((path for path in checkpoints(folder) if not missing_from(path)), None)


def last_complete_checkpoint(folder: Path) -> Path | None:
    """As `whole_checkpoint`, with a line about each that is passed over."""
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
            problem = f"is incomplete, without {' and '.join(missing)}" if Path(resume).is_dir() else "does not exist"
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


def put_aside(folder: Path) -> None:
    """Take the model, its checkpoints and what describes them out of sight; `remove_leftovers` removes them."""
    aside = folder / REPLACING
    aside.mkdir(exist_ok=True)
    for path in [*(path for pattern in OUTPUTS for path in folder.glob(pattern)), *checkpoints(folder)]:
        os.replace(path, aside / path.name)
    os.replace(aside, folder / REPLACED)


def put_back(folder: Path) -> None:
    """Undo `put_aside` where a process ended before something whole had taken the place of what it took away."""
    asides = [folder / REPLACING, folder / REPLACED]
    if asides[1].is_dir() and (is_finished(folder) or whole_checkpoint(folder) is not None):
        asides.pop()
    for aside in asides:
        for path in sorted(aside.glob("*"), key=lambda path: path.name == "config.json"):
            os.replace(path, folder / path.name)


def remove_leftovers(folder: Path) -> None:
    """Remove what was put aside, and what a killed process was saving."""
    for path in folder.glob(".saving-*"):
        shutil.rmtree(path, ignore_errors=True)


def move_folder(source: Path, target: Path) -> None:
    """Move a whole folder into its place; one that is there is put aside."""
    if target.exists():
        os.replace(target, source.with_name(f"{source.name}.old"))
    os.replace(source, target)


def save_whole(save, folder: Path, make_room=None) -> None:
    """`save(temporary_folder)`, then `make_room()`, then move the files: a reader never sees half of one, and
    config.json comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
        try:
            save(temporary)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise OSError(f"{folder} cannot be written to: is the disk full? ({error})") from error
        if make_room is not None:
            make_room()
        for path in sorted(Path(temporary).iterdir(), key=lambda path: path.name == "config.json"):
            os.replace(path, folder / path.name)


# -- loading ----------------------------------------------------------------------------------------------------------


def in_the_box(name: str) -> str:
    """The folder of a model that comes with the package, for its short name; any other name as it is.

    A folder of that name where the command runs is taken first.
    """
    if name not in SHIPPED or Path(name).exists():
        return name
    package = Path(__file__).parent
    places = [package / "shipped" / SHIPPED[name], package.parent / "checkpoints" / SHIPPED[name]]
    return str(next((place for place in places if is_finished(place)), name))


def load_pretrained(load, name: str, has_config: bool = True, **kwargs):
    """`load(name)`, with an error that says in one sentence what is wrong with the name, or with what it names.

    A name below a folder that exists is taken for a path; others of the form "name" or "owner/name" are the Hub's.

    Args:
        has_config: whether a folder has to hold a config.json.

    Raises:
        OSError: there is no such folder or Hub repository. ValueError: its files are damaged.
    """
    name = in_the_box(name)
    local = Path(name).expanduser()
    if local.is_dir():
        if has_config and not is_finished(local):
            saved = whole_checkpoint(local)
            hint = f"; its last checkpoint is {saved}" if saved else ""
            raise FileNotFoundError(f"{name} holds no config.json{hint}")
        damaged = next((path for path in sorted(local.glob("*.json")) if not readable(path)), None)
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged: it is not JSON")
        return _load(load, name, str(local), kwargs)
    a_path = local.exists() or ("/" in name and local.parent.is_dir())
    if a_path or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):
        raise FileNotFoundError(f"there is no folder {name}")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # of its retries the result is enough
    try:
        return _load(load, name, name, kwargs)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise OSError(f"{name} is neither a folder nor a Hub repository that can be reached ({reason})") from error


def _load(load, name: str, place: str, kwargs: dict):
    try:
        return load(place, **kwargs)
    except (OSError, ValueError, ImportError, StrictDataclassError):
        raise
    except Exception as error:  # of damaged files: safetensors', tokenizers' (a bare Exception) and others
        reason = f"{type(error).__name__}: {error}"
        if "ignore_mismatched_sizes" in reason:  # which names nothing, and asks for an argument that nobody gave
            reason = "its tensors have other sizes than its config.json says"
        raise ValueError(f"{name} cannot be loaded: {reason}") from error


def model_kind(name: str) -> tuple[str | None, bool]:
    """A saved model's type, read as data, and whether it takes code of the model's own to load it.

    Raises:
        OSError: there is no such model. ValueError: its type is no name.
    """
    values, _ = load_pretrained(PreTrainedConfig.get_config_dict, name)
    if not isinstance(values, dict):
        raise ValueError(f"the configuration of {name} is {str(values)[:60]}, but it must be an object")
    kind = values.get("model_type")
    if not isinstance(kind, str | None):
        raise ValueError(f"the configuration of {name} has the `model_type` {kind!r}, but it must be a name")
    known = kind == TokMatConfig.model_type or kind in CONFIG_MAPPING
    return kind, bool(values.get("auto_map")) and not known


def load_config(name: str, trust_remote_code: bool = False, **kwargs) -> PreTrainedConfig:
    """The configuration of a saved model, read as data before anything is run.

    A TokMat model's is of the installed package, whatever code its folder holds.

    Args:
        trust_remote_code: run the code that another model brings. kwargs: fields to override.

    Raises:
        OSError: there is no such model. ValueError: it needs code of its own, which is not trusted.
    """
    kind, needs_code = model_kind(name)
    if kind == TokMatConfig.model_type:
        return load_pretrained(TokMatConfig.from_pretrained, name, **kwargs)
    if needs_code and not trust_remote_code:
        raise ValueError(
            f"{name}, of the model type {kind}, needs code of its own, which is not run unasked: read it, and pass "
            "--trust-remote-code if you trust it"
        )
    return load_pretrained(AutoConfig.from_pretrained, name, trust_remote_code=trust_remote_code, **kwargs)


def load_model(name: str, trust_remote_code: bool = False, **kwargs) -> PreTrainedModel:
    """A saved causal language model, TokMat or autoregressive; arguments and errors as for `load_config`.

    Raises:
        ValueError: tensors are missing from its file.
    """
    if isinstance(load_config(name, trust_remote_code), TokMatConfig):
        return load_pretrained(TokMatForContinuousLM.from_pretrained, name, **kwargs)
    options = {"trust_remote_code": trust_remote_code, "output_loading_info": True}
    model, info = load_pretrained(AutoModelForCausalLM.from_pretrained, name, **options, **kwargs)
    if info["missing_keys"]:
        raise ValueError(f"{name} is incomplete: its files have no {', '.join(sorted(info['missing_keys'])[:3])}")
    return model


def load_tokenizer(name: str, trust_remote_code: bool = False):
    """A saved tokenizer; arguments and errors as for `load_config`.

    Raises:
        ValueError: a folder without one.
    """
    name = in_the_box(name)
    if is_finished(Path(name).expanduser()):  # transformers reads the model's configuration too
        load_config(name, trust_remote_code)
    try:
        return load_pretrained(AutoTokenizer.from_pretrained, name, False, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        local, files = Path(name).expanduser(), ("tokenizer.json", "tokenizer_config.json")
        if local.is_dir() and not any((local / file).is_file() for file in files):
            raise ValueError(f"{name} holds no tokenizer: it has neither {' nor '.join(files)}") from error
        raise


def check_vocabulary(tokenizer, config, source: str) -> None:
    """Raises:
    ValueError: a tokenizer with more tokens than the model in `source`.
    """
    if len(tokenizer) > config.vocab_size:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, but {source} only {config.vocab_size}")


def tokmat_config(name: str, **kwargs) -> TokMatConfig:
    """The configuration of a saved TokMat model.

    Raises:
        OSError: there is no such model. ValueError: it is of another kind.
    """
    name = in_the_box(name)
    # The Hub has models without an owner, but none of ours.
    if "/" not in name and not Path(name).expanduser().is_dir():
        shipped = " and ".join(SHIPPED)
        raise FileNotFoundError(
            f"there is no folder {name}, and a Hub name has the form owner/name; {shipped} come with the package"
        )
    kind, _ = model_kind(name)
    if kind != TokMatConfig.model_type:
        raise ValueError(f"{name} is a {kind} model, not a TokMat model")
    config = load_config(name, **kwargs)
    assert isinstance(config, TokMatConfig)
    return config
