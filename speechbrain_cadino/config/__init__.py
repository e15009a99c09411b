"""YAML files, flags, and what a result depends on."""
