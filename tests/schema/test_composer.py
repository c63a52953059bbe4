"""The YAML dialect, its limits, and where it says a mistake is."""

import pytest

from wavalign.schema.composer import MAX_DEPTH, Composed, Node, TextOrigin, compose


def read(text: str) -> Composed:
    return compose(text, TextOrigin("f.yaml", text))


def plain(node: Node | None) -> object:
    assert node is not None
    if isinstance(node.value, dict):
        return {key: plain(item) for key, item in node.value.items()}
    return [plain(item) for item in node.value] if isinstance(node.value, list) else node.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("tRue", "tRue"),
        ("1e-6", 1e-6),
        ("-2E+3", -2000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("017", 17),
        ("0o17", 15),
        ("0x1f", 31),
        ("+3", 3),
        ("-0", 0),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-01-31", "2026-01-31"),
        ("~", None),
        ("", None),
        ("Null", None),
        ("'1'", "1"),
        ('"true"', "true"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
        ("1 - gate", "1 - gate"),
        ("9223372036854775807", 9223372036854775807),
    ],
)
def test_scalar(text: str, value: object) -> None:
    composed = read(f"a: {text}")
    assert not composed.problems
    tree = plain(composed.root)
    assert isinstance(tree, dict)
    (found,) = tree.values()
    assert found == value
    assert type(found) is type(value)


def test_keys_are_text() -> None:
    assert plain(read("{1: a, true: b, null: c, yes: d, 1.5: e}").root) == {
        "1": "a",
        "true": "b",
        "null": "c",
        "yes": "d",
        "1.5": "e",
    }


def test_places_of_keys_and_values() -> None:
    root = read("a:\n  bc:   [1, {d: 2}]\n").root
    assert root is not None
    assert isinstance(root.value, dict)
    a = root.value["a"]
    assert isinstance(a.value, dict)
    bc = a.value["bc"]
    assert isinstance(bc.value, list)
    assert [str(spot) for spot in (root.where, a.key, a.where, bc.key, bc.where)] == [
        "f.yaml:1:1",
        "f.yaml:1:1",
        "f.yaml:2:3",
        "f.yaml:2:3",
        "f.yaml:2:9",
    ]
    assert [str(item.where) for item in bc.value] == ["f.yaml:2:10", "f.yaml:2:13"]
    assert bc.where.text == "  bc:   [1, {d: 2}]"
    assert bc.value[1].path == ("a", "bc", 1)


def test_alias_repeats_the_value_at_its_own_place() -> None:
    composed = read("a: &x {b: [1]}\nc: *x\n")
    assert plain(composed.root) == {"a": {"b": [1]}, "c": {"b": [1]}}
    assert composed.root is not None
    assert isinstance(composed.root.value, dict)
    assert str(composed.root.value["c"].where) == "f.yaml:2:4"


@pytest.mark.parametrize(
    ("text", "code", "place", "path"),
    [
        ("a:\n\tb: 1", "yaml_tab", "2:1", ""),
        ("a:\n  b: 1\n\tc: 2", "yaml_tab", "3:1", ""),
        ("a: b: c", "yaml_syntax", "1:5", ""),
        ("a: 'x\nb: 1\n", "yaml_syntax", "1:4", ""),
        ("a: [1, 2\nb: 3\n", "yaml_syntax", "2:2", ""),
        ("a:\n  b: 1\n c: 2", "yaml_syntax", "3:2", ""),
        ("name: x\nmodel\ndata: 1", "yaml_syntax", "2:1", ""),
        ("a: @b", "yaml_syntax", "1:4", ""),
        ('a: "\\q"', "yaml_syntax", "1:6", ""),
        ('a: "\\UFFFFFFFF"', "yaml_syntax", "1:1", ""),
        ('a: "\\ud800"', "yaml_text", "1:4", "a"),
        ("a: x\x07y", "yaml_character", "1:5", ""),
        ("a: 1\nb: x\x00", "yaml_character", "2:5", ""),
        ("a: {b: 1, b: 2}", "duplicate_key", "1:11", "a.b"),
        ("a: 1\nb: 2\na: 3", "duplicate_key", "3:1", "a"),
        ("a: .inf", "non_finite", "1:4", "a"),
        ("a: [0, -.INF]", "non_finite", "1:8", "a.1"),
        ("a: .nan", "non_finite", "1:4", "a"),
        ("a: 1e999", "non_finite", "1:4", "a"),
        ("a: 9223372036854775808", "non_finite", "1:4", "a"),
        ("a: " + "9" * 5000, "non_finite", "1:4", "a"),
        ("a: !!str 3", "yaml_tag", "1:4", "a"),
        ("a: !!python/object/apply:os.system [ls]", "yaml_tag", "1:4", "a"),
        ("a: ! x", "yaml_tag", "1:4", "a"),
        ("a: !replace [1]", "yaml_tag", "1:4", "a"),
        ("a: !replace", "yaml_tag", "1:4", "a"),
        ("a: !foo {b: 1}", "yaml_tag", "1:4", "a"),
        ("a: !x!y z", "yaml_syntax", "1:4", ""),
        ("a: *b", "yaml_alias", "1:4", "a"),
        ("a: &b [*b]", "yaml_alias", "1:8", "a.0"),
        ("? [a]\n: b", "yaml_key", "1:3", ""),
        ("{{ x }}: 1", "yaml_key", "1:1", ""),
        ("'': 1", "yaml_key", "1:1", ""),
        (": 1", "yaml_syntax", "1:1", ""),
        ("&k a: 1\n*k : 2", "yaml_key", "2:1", ""),
        ("b: &x {y: 1}\na:\n  <<: *x", "yaml_merge_key", "3:3", "a"),
        ("a: 1\n---\nb: 2", "yaml_document", "2:1", ""),
    ],
)
def test_mistake(text: str, code: str, place: str, path: str) -> None:
    (problem,) = read(text).problems
    assert (problem.code, str(problem.where), problem.path) == (code, f"f.yaml:{place}", path)
    assert problem.message
    assert problem.where is not None
    assert problem.where.text == text.split("\n")[problem.where.line - 1]


def test_several_mistakes_are_collected_and_the_rest_is_read() -> None:
    composed = read("a: .nan\nb: 2\nb: 3\nc: !!int 4\nd: 5")
    assert [problem.code for problem in composed.problems] == ["non_finite", "duplicate_key", "yaml_tag"]
    assert plain(composed.root) == {"a": None, "b": 2, "c": None, "d": 5}


def test_a_replaced_mapping_is_marked() -> None:
    root = read("a: !replace {b: 1}").root
    assert root is not None
    assert isinstance(root.value, dict)
    assert root.value["a"].replace
    assert not root.replace


def test_depth_is_limited() -> None:
    deepest = "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)
    assert read(deepest).problems == ()
    (problem,) = read(f"[{deepest}]").problems
    assert (problem.code, str(problem.where)) == ("yaml_too_deep", f"f.yaml:1:{MAX_DEPTH + 2}")


def test_depth_counts_through_aliases() -> None:
    half = "[" * 20 + "]" * 20
    (problem,) = read(f"a: &a {half}\nb: {'[' * 20}*a{']' * 20}\n").problems
    assert (problem.code, str(problem.where)) == ("yaml_too_deep", "f.yaml:2:24")


def test_alias_bomb_is_refused_before_it_goes_off() -> None:
    lines = ["a0: &a0 [" + ", ".join("x" * 10) + "]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 10) + "]" for n in range(1, 12)]
    (problem,) = read("\n".join(lines)).problems
    assert problem.code == "yaml_too_large"
    assert problem.where is not None
    assert problem.where.line == 5


def test_size_is_limited() -> None:
    (problem,) = read("a: [" + "1," * 25_000 + "]").problems
    assert problem.code == "yaml_too_large"


def test_windows_line_ends_and_comments() -> None:
    composed = read("# first\r\na: 1\r\nb: 2\r\nb: 3\r\n")
    (problem,) = composed.problems
    assert str(problem.where) == "f.yaml:4:1"
    assert problem.where is not None
    assert problem.where.text == "b: 3"


@pytest.mark.parametrize("text", ["", "# only a comment\n", "\n\n"])
def test_no_document(text: str) -> None:
    assert read(text) == Composed(None, ())
