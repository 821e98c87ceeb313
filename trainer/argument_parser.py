# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Command line flags from dataclasses, for `tokmat train` and `tokmat generate`."""

import argparse
import copy
import dataclasses
import difflib
import inspect
import re

from transformers import HfArgumentParser


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """One spelling per flag (underscores work as well), and defaults only where there is one."""

    def _format_action_invocation(self, action):
        shown = copy.copy(action)
        shown.option_strings = [flag for flag in action.option_strings if "_" not in flag]
        return super()._format_action_invocation(shown)

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


class OneLineParser(HfArgumentParser):
    """HfArgumentParser that reports what is wrong by a ValueError and never prints its usage for it."""

    def __init__(self, dataclass_types, **kwargs):
        super().__init__(dataclass_types, allow_abbrev=False, formatter_class=Help, **kwargs)

    def error(self, message: str):
        raise ValueError(message)

    def parse(self, arguments: list[str]) -> dict:
        """The values of all arguments by name.

        Raises:
            ValueError: an unknown flag, a value of the wrong type, a required argument that is missing.
        """
        namespace, unknown = self.parse_known_intermixed_args(arguments)
        if unknown:
            flags = [flag for flag in self._option_string_actions if "_" not in flag]
            near = difflib.get_close_matches(unknown[0].partition("=")[0].replace("_", "-"), flags, 1)
            raise ValueError(f"unknown argument {unknown[0]!r}" + (f"; did you mean {near[0]}?" if near else ""))
        return vars(namespace)


def optional_fields(cls: type, title: str, names: list[str], defaults: dict[str, str] | None = None) -> type:
    """A dataclass of the fields `names` of `cls` with default None, "not given", and the help of its docstring."""
    documented = re.findall(
        r"^    (\w[\w, ]*?)(?: \([^\n]*\))?:\s+(\S.*(?:\n {8}.+)*)", inspect.getdoc(cls), re.MULTILINE
    )
    texts = {name: " ".join(text.split()) for group, text in documented for name in group.split(", ")}
    made = []
    for item in dataclasses.fields(cls):
        if item.name in names:
            text = texts.get(item.name, "").replace("`", "").replace("%", "%%")
            default = (defaults or {}).get(item.name, item.default)
            metadata = {"help": f"{text} (default for a new model: {default})" if defaults else text}
            if item.type is bool:
                metadata |= {"nargs": "?", "const": True}
            made.append((item.name, item.type | None, dataclasses.field(default=None, metadata=metadata)))
    made = dataclasses.make_dataclass(f"{cls.__name__}Flags", made)
    made._argument_group_name = title
    return made
