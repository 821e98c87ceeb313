# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""transformers' own command line with TokMat in it (docs/TROUBLESHOOTING.md, "Serving").

`transformers serve` looks a model's class up in the transformers package, and so does not find one from outside it.
"""

import transformers
from transformers.cli.transformers import main

from modeling_tokmat import TokMatForContinuousLM

transformers.TokMatForContinuousLM = TokMatForContinuousLM

if __name__ == "__main__":
    main()
