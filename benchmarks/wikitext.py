# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""WikiText-2 as plain text: its tokens put together again, articles separated by lines of <|endoftext|>.

    python benchmarks/wikitext.py wikitext2-test.txt wikitext2-valid.txt wikitext.txt

Headings are left out, and so are paragraphs in which one word of thirty or more is unknown (`<unk>`); in the others
unknown words stay as they are.
"""

import argparse
import re
from pathlib import Path

TITLE = re.compile(r"^ = [^=].* = $", re.MULTILINE)
UNKNOWN = 1 / 30  # share of a paragraph's words


def articles(text: str) -> list[str]:
    found = []
    for article in TITLE.split(text):
        lines = (line.strip() for line in article.splitlines())
        paragraphs = [line for line in lines if line and not line.startswith("=")]
        kept = [plain(part) for part in paragraphs if part.split().count("<unk>") < UNKNOWN * len(part.split())]
        found.append("\n\n".join(kept))
    return [article for article in found if article]


def plain(text: str) -> str:
    """A paragraph without the spaces that WikiText puts around punctuation."""
    text = re.sub(r" @([-,.])@ ", r"\1", text)
    text = re.sub(r'" ([^"]*) "', r'"\1"', text)
    text = re.sub(r" ([,.;:!?)\]%]|'s\b|n't\b|'(?:re|ve|ll|d|m)\b|')", r"\1", text)
    return re.sub(r"([(\[$£]) ", r"\1", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, nargs="+")
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    found = [article for source in args.sources for article in articles(source.read_text(encoding="utf-8"))]
    args.output.write_text("".join(f"{article}\n<|endoftext|>\n" for article in found), encoding="utf-8")
    print(f"{len(found)} articles in {args.output}")


if __name__ == "__main__":
    main()
