"""YAML files, base chains and overrides → an options dataclass, checked against a schema that is handed in."""
