# SPDX-License-Identifier: Apache-2.0
"""As much of JSON Schema as docs/schema uses. An unknown keyword is an error, so nothing goes unchecked."""
import re

_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
_NOTES = {"$schema", "$id", "$defs", "title", "description", "examples", "default", "format"}


def _is(value, name):
    if name in ("integer", "number"):
        return isinstance(value, (int, float) if name == "number" else int) and not isinstance(value, bool)
    return isinstance(value, _TYPES[name])


def _resolve(reference, root):
    found = root
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def _object(value, schema, root, where):
    properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    errors = [f"{where}: {name} is missing" for name in schema.get("required", []) if name not in value]
    for name, member in value.items():
        fitting = [properties[name]] if name in properties else []
        fitting += [s for pattern, s in patterns.items() if re.search(pattern, name)]
        if not fitting:
            fitting = [schema.get("additionalProperties", True)]
        for one in fitting:
            errors += errors_of(member, one, root, f"{where}.{name}")
    if not schema.get("minProperties", 0) <= len(value):
        errors.append(f"{where}: {len(value)} members")
    return errors


def _array(value, schema, root, where):
    errors = []
    for number, item in enumerate(value):
        errors += errors_of(item, schema.get("items", True), root, f"{where}[{number}]")
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        errors.append(f"{where}: {len(value)} items")
    return errors


def _scalar(value, schema, where):
    errors = []
    if "enum" in schema and value not in schema["enum"]:
        errors.append(f"{where}: {value!r} is none of {schema['enum']}")
    if "const" in schema and value != schema["const"]:
        errors.append(f"{where}: {value!r} is not {schema['const']!r}")
    if _is(value, "number") and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        errors.append(f"{where}: {value} is out of range")
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        errors.append(f"{where}: {value!r} does not match {schema['pattern']}")
    if isinstance(value, str) and len(value) < schema.get("minLength", 0):
        errors.append(f"{where}: too short")
    return errors


_KNOWN = _NOTES | {"type", "enum", "const", "minimum", "maximum", "pattern", "minLength", "minProperties",
                   "properties", "required", "additionalProperties", "patternProperties", "items", "minItems",
                   "maxItems", "$ref", "anyOf", "oneOf"}


def errors_of(value, schema, root=None, where="$"):
    """Everything that is wrong with a document; an empty list if nothing is."""
    if isinstance(schema, bool):
        return [] if schema else [f"{where}: not expected"]
    root = root or schema
    errors = [f"{where}: schema keyword {key} is not known here" for key in schema if key not in _KNOWN]
    if "$ref" in schema:
        errors += errors_of(value, _resolve(schema["$ref"], root), root, where)
    for key in ("anyOf", "oneOf"):
        fits = [one for one in schema.get(key, []) if not errors_of(value, one, root, where)]
        if key in schema and (not fits or key == "oneOf" and len(fits) > 1):
            errors.append(f"{where}: fits {len(fits)} of {key}")
    names = schema.get("type", [])
    names = [names] if isinstance(names, str) else names
    if names and not any(_is(value, name) for name in names):
        return [*errors, f"{where}: {value!r} is not {' or '.join(names)}"]
    if isinstance(value, dict):
        errors += _object(value, schema, root, where)
    elif isinstance(value, list):
        errors += _array(value, schema, root, where)
    return errors + _scalar(value, schema, where)
