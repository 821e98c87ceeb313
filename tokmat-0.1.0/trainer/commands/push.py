# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat push`: a model with its code, tokenizer, settings, card and pictures, on the Hub."""

from pathlib import Path

from ..cards import CardOptions, kind_of, write_card
from ..checkpoints import in_the_box
from ..hub import check_repo_id, check_token, has_card, prepare, push, shown_size


def run(
    model: Path,
    repo_id: str,
    private: bool,
    revision: str | None,
    create_pr: bool,
    dry_run: bool,
    max_file_gb: float,
) -> int:
    check_repo_id(repo_id)
    model = Path(in_the_box(str(model)))
    upload = prepare(model, max_file_gb)
    makes_card = not has_card(model)
    if dry_run:
        where = f" ({upload.repo_type})" + (f", revision {revision}" if revision else "")
        print(f"Would go to {repo_id}{where}:")
        for name, size in upload.files.items():
            print(f"  {shown_size(size):>9}  {name}")
        if makes_card:
            print("             README.md, a card that is made first, with pictures (tokmat card)")
        print(f"  {shown_size(sum(upload.files.values())):>9}  in all")
        for name, why in upload.left_out.items():
            print(f"Left out: {name} ({why})")
        return 0
    check_token()
    if makes_card:
        kind_of(model)
        print(f"Saved {write_card(model, CardOptions(repo_id=repo_id))}.", flush=True)
        upload = prepare(model, max_file_gb)
    made = push(upload, repo_id, private, revision, create_pr)
    print(f"Pushed {len(upload.files)} files: {made.pr_url or made.commit_url}")
    print(f'Pin what you pushed: revision="{made.oid}"', flush=True)
    return 0
