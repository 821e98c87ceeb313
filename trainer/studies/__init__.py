# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The studies of `tokmat reproduce`: one function `study(lab) -> Finding` per file, listed here in reading order."""

STUDIES = {
    "repetition": "repetition and quality beside greedy decoding, 50, 200 and 1,000 tokens",
    "entropy": "entropy and direction of vectors while they mature",
    "tail_length": "tail length against diversity",
    "guidance": "what the tail knows of what is committed later, by guidance scale",
    "drift": "how far learned embeddings move",
    "templates": "what embryo noise changes: the skeleton of a text or its words",
    "ablations": "every choice of the recipe, changed alone",
    "failures": "detectors of four failures, on models made to fail",
    "structured": "code, dialogue and arithmetic",
    "diversity": "where diversity comes from, cause by cause",
}
