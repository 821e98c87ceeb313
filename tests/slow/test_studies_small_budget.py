# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat reproduce` as it is, with the small budget."""

import pytest
from typer.testing import CliRunner

from trainer.cli import app
from trainer.studies import STUDIES
from trainer.studies.findings import is_done


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_small_budget_on_the_builtin_corpus(tmp_path):
    result = CliRunner().invoke(app, ["reproduce", "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, (result.stderr[-3000:], result.exception)
    assert all(is_done(tmp_path / "out" / name) for name in STUDIES if name != "structured")
