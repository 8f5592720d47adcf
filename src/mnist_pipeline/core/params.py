"""Reading `params.yaml` into frozen, typed models, and saying what is wrong with it in one sentence for each key.

Each package declares its own section in its `params.py`, as a subclass of `Section`. There are no silent defaults for
what changes a result: a key is in `params.yaml` or it is an error.
"""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from mnist_pipeline.core.errors import UserError, did_you_mean
from mnist_pipeline.core.records import read_yaml, reading

Fraction = Annotated[float, Field(ge=0, lt=1)]
ModelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]

S = TypeVar("S", bound="Section")

LARGEST = 100_000
"""Bytes of a `params.yaml`, at most: a larger one is something else, and takes long to read."""
MOST = 10
"""Sentences that are said about a file, at most."""


class Section(BaseModel):
    """A block of `params.yaml`: immutable, strictly typed, closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _names_its_keys(cls, data: Any) -> Any:
        """Refuse another shape and an unknown key here, where the valid names are known."""
        known = ", ".join(cls.model_fields)
        if not isinstance(data, Mapping | cls):
            raise PydanticCustomError("no_section", "must be a section with the keys {known}", {"known": known})
        for key in data if isinstance(data, Mapping) else ():
            if key not in cls.model_fields:
                message = "is not a known key; {hint}allowed here: {known}"
                hint = did_you_mean(str(key), cls.model_fields)
                raise PydanticCustomError("unknown_key", message, {"key": key, "hint": hint, "known": known})
        return data


def read_params(path: Path, kind: type[S]) -> S:
    """Read a `params.yaml` and check that it holds a `kind`.

    Raises:
        UserError: it is missing, is not YAML, or breaks a rule: a sentence for each key, with its full path, its value,
            what is allowed and, for a misspelt key, the nearest valid name.
    """
    return check_params(path.name, _read(path), kind)


def read_section(path: Path, kind: type[S]) -> S:
    """Read from a `params.yaml` the sections that `kind` names, whatever else there may be; see `read_params`."""
    content = _read(path)
    known = {key: content[key] for key in kind.model_fields if key in content} if isinstance(content, Mapping) else {}
    return check_params(path.name, known, kind)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path} is missing: restore it with `git checkout {path.name}`.")
    if (size := path.stat().st_size) > LARGEST:
        raise UserError(f"{path} has {size:,} bytes: parameters take at most {LARGEST:,}; remove what is none.")
    with reading(path):
        return read_yaml(path)


def check_params(file: str, data: Any, kind: type[S]) -> S:
    """Check what was read from the file of that name; see `read_params`."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        details = error.errors()
        # A list with a wrong item is also called too short: the item is what there is to say.
        sections = {each["loc"][:length] for each in details for length in range(len(each["loc"]))}
        alike = defaultdict[str, list[ErrorDetails]](list)
        for each in (each for each in details if each["loc"] not in sections):
            # The same but for the model: a section is often copied from one to the next.
            alike[repr((each["msg"], each.get("ctx"), each["loc"][:1], each["loc"][2:]))].append(each)
        sentences = [
            _sentence(file, data, first) + (f" And {len(others)} more like it." if others else "")
            for first, *others in [*alike.values()][:MOST]
        ]
        rest = [f"{file}: and {left} more mistakes."] if (left := len(alike) - MOST) > 0 else []
        raise UserError("\n".join(sentences + rest)) from error


_WORDS = {
    "missing": "is missing",
    "union_tag_not_found": "is missing",
    "union_tag_invalid": "must be one of {expected_tags}",
    "dict_type": "must be a section of keys and values",
    "model_attributes_type": "must be a section of keys and values",
    "tuple_type": "must be a list",
    "too_short": "must have {min_length} or more entries",
    "too_long": "must have at most {max_length} entries",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
}
"""What pydantic says of Python's types, in the words of `params.yaml`."""


def _sentence(file: str, data: Any, detail: ErrorDetails) -> str:
    """Say one validation error as one sentence: file, key, value, what is allowed."""
    loc, context = [*detail["loc"]], detail.get("ctx", {})
    if "discriminator" in context:
        loc.append(context["discriminator"].strip("'"))
    elif detail["type"] == "unknown_key":
        loc.append(context["key"])
    if words := _WORDS.get(detail["type"]):
        message = words.format(**context)
    else:
        message = detail["msg"].removeprefix("Value error, ")
        message = message.replace("Input should", "must").replace("String should", "must")
    keys, value = list[str](), data
    for part in loc:
        with suppress(LookupError, TypeError):  # pydantic puts the tags of unions between the keys
            value = value[part]
            keys.append(str(part))
    if message == "is missing":
        return f"{file}: {'.'.join([*keys, str(loc[-1])])}: {message}."
    found = "" if isinstance(value, Mapping | list) else f" (found {value!r})"
    return f"{file}: {'.'.join(keys) or 'the file'}{found}: {message}."
