# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`custom_generate` plugin: decode a TokMat checkpoint by delayed commitment (arXiv 2601.04854, Algorithm 1)."""


def generate(model, inputs=None, **kwargs):
    """
    Run the checkpoint's own maturation, whatever `generate` the loaded object has.

    Args:
        model: a loaded TokMat model. inputs: prompt ids, (batch, length); `input_ids=` serves as well.
        kwargs: every argument of `generate` and every maturation setting (`tail_length`, `commit`, ...).

    Raises:
        ValueError: for a model that is not TokMat's.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind != "tokmat":
        raise ValueError(
            f"`model` is a {type(model).__name__} (model_type {kind!r}), but maturation needs a TokMat checkpoint, "
            "whose network predicts vectors: load one with AutoModelForCausalLM and trust_remote_code=True."
        )
    # The class's method, not the object's: an object loaded from a folder that holds a plugin calls the plugin again.
    return type(model).generate(model, inputs, **{name: value for name, value in kwargs.items() if value is not None})
