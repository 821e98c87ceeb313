# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Structured text: code, dialogue and arithmetic."""

from trainer.studies import structured


def test_sums_are_correct_and_the_same_again():
    documents = structured.sums(20)
    assert documents == structured.sums(20) != structured.sums(20, seed=1)
    for document in documents:
        assert structured.correct_sums(f"\n{document}\n") == (16, 16)


def test_only_whole_lines_of_arithmetic_count():
    assert structured.correct_sums("7\n1 + 2 = 3\n1 + 2 = 4\nword\n5 - 3 = ") == (1, 3)
    assert structured.correct_sums("1 + 2 = 3") == (0, 0)


def test_code_documents_are_functions_and_classes():
    documents = structured.code_documents(30_000)
    assert 5 < len(documents) and sum(map(len, documents)) <= 30_000
    assert all(text.startswith(("def ", "class ")) for text in documents)


def test_dialogue_is_cut_between_speeches(tmp_path):
    path = tmp_path / "play.txt"
    path.write_text("\n\n".join(f"A:\nThis is speech {place}." for place in range(50)), encoding="utf-8")
    documents = structured.dialogue_documents(str(path), least=100)
    assert len(documents) > 5 and all(text.startswith("A:") and text.endswith(".") for text in documents)
    assert "\n\n".join(documents) == path.read_text(encoding="utf-8")
