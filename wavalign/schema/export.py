"""JSON Schema of a recipe file, for completion and checking in an editor.

A file may leave out what it inherits, so nothing is required beyond a component's `type`; descriptions say what a whole
recipe needs. `wavalign validate` has the last word. Editors do not know the tag `!replace` unless told
(`yaml.customTags: ["!replace mapping"]`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from wavalign.schema.base import Params, Tree
from wavalign.schema.component import Component, WeightedComponent
from wavalign.schema.recipe import Recipe
from wavalign.schema.reward import RewardSection
from wavalign.schema.stage import Repeat, StageSections

PLACES: Mapping[tuple[str, str], str] = {
    ("ModelSection", "architecture"): "architecture",
    ("ModelSection", "codec"): "codec",
    ("ModelSection", "nar"): "nar",
    ("DataSection", "prompts"): "data",
    ("DataSection", "demonstrations"): "data",
    ("DataSection", "families"): "data",
    ("DataSection", "samples"): "data",
    ("DataSection", "evaluation"): "data",
    ("RolloutSection", "sampler"): "sampler",
    ("RolloutSection", "provider"): "provider",
    ("Stage", "rewards"): "reward",
    ("ObjectiveSection", "advantage"): "advantage",
    ("ObjectiveSection", "gate"): "gate",
    ("TermSection", "loss"): "loss",
    ("TermSection", "tokens"): "mask",
    ("EvaluationSection", "metrics"): "metric",
    ("RuntimeSection", "trackers"): "tracker",
}
"""Which kind of plugin a component is, by section and field."""

_FORMS: Mapping[str, type[Component]] = {"data": WeightedComponent, "reward": RewardSection}
"""Kinds whose components have keys of their own beside `type`."""
_REFERENCES = frozenset(f"#/$defs/{form.__name__}" for form in (Component, WeightedComponent, RewardSection))


def recipe_schema(components: Mapping[str, Mapping[str, type[Params]]]) -> Tree:
    """The schema, given the Params of every plugin to offer: kind -> type -> class.

    Each component is a `oneOf` over the types of its kind, told apart by the constant `type`.
    """
    schema = Recipe.model_json_schema()
    definitions: Tree = schema["$defs"]
    for (section, field), kind in PLACES.items():
        properties = definitions[section]["properties"]
        properties[field] = _placed(properties[field], kind)
    for form in (Component, WeightedComponent, RewardSection):
        del definitions[form.__name__]
    evaluation = definitions["DataSection"]["properties"]["evaluation"]
    definitions["DataSection"]["properties"]["evaluation"] = {
        "anyOf": [evaluation, *evaluation["patternProperties"].values()],
        "description": evaluation.pop("description"),
    }
    for kind in sorted(set(PLACES.values())):
        definitions.update(_kind(kind, components.get(kind, {})))
    shared = {name: definitions["Stage"]["properties"][name] for name in StageSections.model_fields}
    own: Tree = dict(schema["properties"])
    stages = own.pop("stages")
    definitions["Repeat"] = _repeat(stages["items"], definitions)
    stages["items"] = {"anyOf": [stages["items"], {"$ref": "#/$defs/Repeat"}]}
    properties = {**own, "extends": _EXTENDS, **shared, "stages": stages}
    root = {"properties": properties, "required": schema["required"], "$defs": definitions}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "WavAlign recipe",
        "type": "object",
        "additionalProperties": False,
        **_everywhere(root, _relaxed),
    }


def _repeat(stage: Tree, definitions: Tree) -> Tree:
    """The definition of a `repeat`, whose body is a list of `stage`."""
    schema = Repeat.model_json_schema()
    definitions.update(schema.pop("$defs", {}))
    body = {"type": "array", "items": stage, "minItems": 1, "description": "What every round does."}
    properties = {**schema["properties"], "stages": body}
    return {**schema, "properties": properties, "required": [*schema["required"], "stages"]}


_EXTENDS: Tree = {
    "type": "string",
    "description": "A recipe to start from, relative to this file. Mappings merge, everything else replaces.",
}


def _placed(value: Any, kind: str) -> Any:
    """Let references to a component in a field mean components of `kind`; a single source may lack its list."""

    def swap(node: Tree) -> Tree:
        if node.get("$ref") in _REFERENCES:
            return {**node, "$ref": f"#/$defs/{kind}"}
        if kind == "data" and node.get("type") == "array":
            return {"anyOf": [node["items"], node]}
        return node

    return _everywhere(value, swap)


def _kind(kind: str, types: Mapping[str, type[Params]]) -> Tree:
    """Definitions of a kind and of each of its types."""
    if not types:
        return {kind: {"type": ["string", "object"], "description": f"Any {kind} plugin."}}
    definitions: Tree = {}
    for name in sorted(types):
        definitions.update(_type(kind, name, types[name]))
    alternatives = [{"$ref": f"#/$defs/{kind}.{name}"} for name in sorted(types)]
    bare = {"type": "string", "enum": sorted(types), "description": f"A {kind} without options."}
    inherited = {
        "type": "object",
        "not": {"required": ["type"]},
        "description": f"Options over a {kind} that is inherited.",
    }
    return {kind: {"oneOf": [*alternatives, bare, inherited]}, **definitions}


def _type(kind: str, name: str, params: type[Params]) -> Tree:
    """The definition of one plugin as a component, and those it refers to."""
    prefix = f"{kind}.{name}"
    schema = params.model_json_schema(ref_template=f"#/$defs/{prefix}.{{model}}")
    own = dict(_FORMS.get(kind, Component).model_json_schema()["properties"])
    own.pop("params")
    selector = {**own.pop("type"), "const": name}
    component = {
        "type": "object",
        "title": name,
        "description": schema.get("description", f"The {kind} `{name}`."),
        "properties": {"type": selector, **schema.get("properties", {}), **own},
        "required": ["type", *schema.get("required", ())],
        "additionalProperties": False,
    }
    nested = {f"{prefix}.{model}": value for model, value in schema.get("$defs", {}).items()}
    return {prefix: component, **nested}


def _relaxed(node: Tree) -> Tree:
    """Require only what tells types apart, and say in words what else a whole recipe needs."""
    node = dict(node)
    properties = node.get("properties")
    required = node.get("required", [])
    if isinstance(properties, Mapping) and isinstance(required, list):
        node["properties"] = {key: _needed(value) if key in required else value for key, value in properties.items()}
        if "const" in properties.get("type", {}):
            node["required"] = ["type"]
        else:
            node.pop("required", None)
    if isinstance(node.get("default"), dict):
        del node["default"]
    if isinstance(names := node.get("patternProperties"), dict) and len(names) == 1:
        node["additionalProperties"] = False  # a name that does not match is a mistake, and no other key
    if node.get("type") == "array" and "minLength" in node:
        node["minItems"] = node.pop("minLength")
    return node


def _needed(value: Tree) -> Tree:
    return value if "const" in value else {**value, "description": f"{value.get('description', '')} Required.".strip()}


def _everywhere(value: Any, change: Callable[[Tree], Tree]) -> Any:
    """Apply `change` to every schema in `value`, the innermost first; names of properties are no schemas."""
    if isinstance(value, list):
        return [_everywhere(item, change) for item in value]
    if not isinstance(value, dict):
        return value
    result: Tree = {}
    for key, item in value.items():
        if key in ("properties", "patternProperties", "$defs") and isinstance(item, dict):
            result[key] = {name: _everywhere(each, change) for name, each in item.items()}
        elif key in ("default", "const", "enum", "required"):
            result[key] = item
        else:
            result[key] = _everywhere(item, change)
    return change(result)
