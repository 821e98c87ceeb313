# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
from trainer.space.app import launch

launch()
