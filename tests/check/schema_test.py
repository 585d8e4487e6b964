#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The published schema accepts every good configuration of tests/configs, refuses
the bad ones marked "# schema: reject", and refuses an unknown key anywhere."""

import copy
import json
import pathlib
import re
import sys
import unittest

try:
    import jsonschema
    import yaml
except ImportError as missing:  # Debian: python3-jsonschema, python3-yaml
    print(f"skipped: {missing}")
    sys.exit(77)

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "docs/schema/config.schema.json"
CONFIGS = ROOT / "tests/configs"


class CoreLoader(yaml.SafeLoader):
    """YAML 1.2's core schema, as the parser reads it: 'on' is a string, 1:2 too."""

    yaml_implicit_resolvers = {}


INT = r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+"
FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
for tag, pattern in (("null", r"~|null|Null|NULL|"), ("bool", "true|True|TRUE|false|False|FALSE"),
                     ("int", INT), ("float", FLOAT)):
    CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), None)


def load(path):
    return yaml.load(path.read_bytes(), CoreLoader)


def closed_mappings(node, path=()):
    """Paths of all mappings but `sets`, whose keys the user chooses."""
    if isinstance(node, dict):
        if path != ("sets",):
            yield path
        for key, value in node.items():
            yield from closed_mappings(value, path + (key,))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from closed_mappings(value, path + (index,))


class Schema(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        schema = json.loads(SCHEMA.read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        cls.validator = jsonschema.Draft202012Validator(schema)

    def test_accepts_good_configurations(self):
        files = sorted((CONFIGS / "good").glob("*.yaml"))
        self.assertTrue(files)
        for path in files:
            with self.subTest(path.name):
                self.validator.validate(load(path))

    def test_rejects_bad_configurations(self):
        rejected = [p for p in sorted((CONFIGS / "bad").glob("*.yaml")) if b"\n# schema: reject\n" in p.read_bytes()]
        self.assertTrue(rejected)
        for path in rejected:
            with self.subTest(path.name):
                self.assertFalse(self.validator.is_valid(load(path)))

    def test_rejects_unknown_keys_anywhere(self):
        for path in sorted((CONFIGS / "good").glob("*.yaml")):
            document = load(path)
            for mapping in closed_mappings(document):
                changed = copy.deepcopy(document)
                node = changed
                for step in mapping:
                    node = node[step]
                node["unknown_key"] = 1
                with self.subTest(path.name, mapping=mapping):
                    self.assertFalse(self.validator.is_valid(changed))


if __name__ == "__main__":
    unittest.main()
