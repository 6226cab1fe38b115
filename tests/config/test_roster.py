"""Rosters: endpoints from YAML and JSON, and where each mistake is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config import roster
from meshproxy.config.roster import decode_roster, read_roster
from meshproxy.errors import ConfigError, Problem


def addresses(text: str, *, yaml: bool = True) -> list[str]:
    """The addresses of a roster."""
    return [str(endpoint.address) for endpoint in read_roster(text, "r", yaml=yaml)]


def problems(text: str, *, yaml: bool = True) -> tuple[Problem, ...]:
    """What is wrong with a roster."""
    with pytest.raises(ConfigError) as caught:
        read_roster(text, "r", yaml=yaml)
    return caught.value.problems


def told(text: str, *, yaml: bool = True) -> list[str]:
    """The same as people see it."""
    return [str(problem) for problem in problems(text, yaml=yaml)]


ALONE = "a roster is a list, or a mapping with 'endpoints' alone"

FULL = {
    "address": "127.0.0.1:1",
    "weight": 3,
    "priority": 2,
    "labels": {"version": "v2"},
    "zone": "b",
    "health_check": {"port": 9},
}


@pytest.mark.parametrize(
    "text",
    [
        '["127.0.0.1:1", {"address": "[::1]:2"}]',
        '{"endpoints": ["127.0.0.1:1", {"address": "[::1]:2"}]}',
        ' \n{ "endpoints" :\n[ "127.0.0.1:1" ,\n{ "address" : "[::1]:2" } ] } ',
        "\ufeff[127.0.0.1:1, '[::1]:2']",
        "- 127.0.0.1:1\n- address: '[::1]:2'\n",
        "# a comment\nendpoints:\n- 127.0.0.1:1\n- { address: '[::1]:2' }\n",
    ],
)
def test_ways_to_write_it(text: str) -> None:
    """A list, or a mapping with that; JSON, or YAML in either style."""
    assert addresses(text) == ["127.0.0.1:1", "[::1]:2"]


@pytest.mark.parametrize("text", [json.dumps([FULL]), "- " + json.dumps(FULL)])
def test_all_that_an_endpoint_has(text: str) -> None:
    """The same keys as in a cluster's endpoints."""
    (endpoint,) = read_roster(text, "r")
    assert (endpoint.weight, endpoint.priority, endpoint.zone) == (3, 2, "b")
    assert endpoint.labels == {"version": "v2"}
    assert endpoint.health_check is not None
    assert endpoint.health_check.port == 9


@pytest.mark.parametrize("text", ["[]", '{"endpoints": []}', "endpoints: []", "[ ] # none"])
def test_no_endpoints_on_purpose(text: str) -> None:
    """An explicit empty list."""
    assert read_roster(text, "r") == []


@pytest.mark.parametrize("text", ["", " \n", "# nothing\n", "---\n", "null\n", "~"])
def test_an_empty_text_is_a_write_cut_short(text: str) -> None:
    """It never empties a cluster."""
    (message,) = told(text)
    assert "expected" in message or "is empty; where there are no endpoints it says []" in message
    assert problems("", yaml=False) == problems("")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("endpoints:\n", "r:1:1: endpoints: 'endpoints' has no value"),
        ("{}", "r:1:1: 'endpoints' is missing"),
        ("endpoints: 5", "r:1:12: endpoints: a list of endpoints is expected"),
        ('{"endpoints": "x"}', "r:1:15: endpoints: a list of endpoints is expected"),
        ('\n "x"', "r:2:2: a list of endpoints is expected"),
        ("x", "r:1:1: a list of endpoints is expected"),
        (
            '{"endpoints": [],\n "endpoints": []}',
            "r:2:2: endpoints: the key 'endpoints' is there already",
        ),
        (
            '{"endpoint": []}',
            f"r:1:2: endpoint: unknown key 'endpoint'; {ALONE}; did you mean 'endpoints'?",
        ),
        (
            "endpoints: []\nmore: 1",
            f"r:2:1: more: unknown key 'more'; {ALONE}",
        ),
    ],
)
def test_what_is_no_roster(text: str, message: str) -> None:
    """Said once, with its place."""
    assert told(text) == [message]


WRONG_JSON = """\
{"endpoints": ["127.0.0.1:1",
  {"address": "127.0.0.1:1"}, {"address": "db.test:2"},
  {"srv": "_a._tcp.b.test"},
  {}, 5,
  {"adress": "127.0.0.1:2"}, {"address": "127.0.0.1:3", "weight": null},
  null, {"address": "127.0.0.1:4",
         "address": "127.0.0.1:5"},
  {"address": "127.0.0.1:6", "weight": 0, "zone": 7}]}
"""
WRONG_YAML = """\
endpoints:
- 127.0.0.1:1
- address: 127.0.0.1:1
- address: db.test:2
- {}
- address: 127.0.0.1:3
  weight:
- address: 127.0.0.1:6
  weight: 0
"""


def test_every_mistake_of_json_with_its_place() -> None:
    """Each at its line and column, counted in the whole text, under its index."""
    found = [
        (problem.line, problem.column, problem.path, problem.message[:32])
        for problem in problems(WRONG_JSON, yaml=False)
    ]
    assert found == [
        (2, 15, "endpoints[1].address", "the address 127.0.0.1:1 is there"),
        (2, 43, "endpoints[2].address", "an IP address is needed here, an"),
        (3, 11, "endpoints[3].srv", "SRV names are for the 'endpoints"),
        (4, 3, "endpoints[4]", "one of 'address' and 'srv' is ne"),
        (4, 7, "endpoints[5]", "an address is needed, and 5 is o"),
        (5, 4, "endpoints[6].adress", "unknown key 'adress'"),
        (5, 57, "endpoints[7].weight", "'weight' has no value; give it o"),
        (6, 3, "endpoints[8]", found[7][3]),
        (7, 10, "endpoints[9].address", "the key 'address' is there alrea"),
        (8, 40, "endpoints[10].weight", "this must be at least 1, and it "),
        (8, 51, "endpoints[10].zone", "text is expected, not the number"),
    ]
    assert problems(WRONG_JSON) == problems(WRONG_JSON, yaml=False)


def test_every_mistake_of_yaml_with_its_place() -> None:
    """The same for YAML."""
    assert [(problem.line, problem.column, problem.path) for problem in problems(WRONG_YAML)] == [
        (3, 12, "endpoints[1].address"),
        (4, 12, "endpoints[2].address"),
        (5, 3, "endpoints[3]"),
        (7, 3, "endpoints[4].weight"),
        (9, 11, "endpoints[5].weight"),
    ]


def test_not_valid_at_all() -> None:
    """The place where it breaks off; for who takes JSON only, what YAML would allow, too."""
    assert told('["127.0.0.1:1"', yaml=False) == ["r:1:15: not valid JSON: Expecting ',' delimiter"]
    assert told("- 127.0.0.1:1", yaml=False) == ["r:1:1: not valid JSON: Expecting value"]
    (message,) = told('["127.0.0.1:1"')
    assert message.startswith("r:1:15: ")


def test_the_same_address_in_other_words() -> None:
    """Addresses are compared, not texts."""
    (message,) = told('["[::1]:1",\n "[0:0:0:0:0:0:0:1]:1"]')
    assert message == "r:2:2: [1]: the address [::1]:1 is there already, in line 1"


def test_bounds() -> None:
    """Endpoints, length, nesting, digits, and the number of complaints."""
    many = [f"10.0.{n // 250}.{n % 250}:80" for n in range(roster.MOST_ENDPOINTS)]
    assert addresses(json.dumps(many)) == many
    (message,) = told(json.dumps([*many, "10.1.1.1:80"], indent=0))
    assert message == "r:10002:1: [10000]: more than 10000 endpoints"
    assert "longer than 4 MiB" in told(" " * (roster.LONGEST_ROSTER + 1))[0]
    assert "levels of nesting" in told("[" * 100_000)[0]
    assert "a number this long" in told(f"[{'9' * 5000}]", yaml=False)[0]
    assert len(problems(json.dumps(["x"] * 9000))) == 20


def test_a_long_endpoint_is_not_taken_apart() -> None:
    """Its place is said, and no time is spent on what is wrong inside."""
    labels = {f"label{number}": "" for number in range(1000)}
    (message,) = told(json.dumps([{"address": "127.0.0.1:1", "labels": labels}]))
    assert message == "r:1:2: [0]: an endpoint of more than 4096 characters"
    good = {"address": "127.0.0.1:1", "labels": dict.fromkeys(labels, "x")}
    assert addresses(json.dumps([good, "127.0.0.1:2"])) == ["127.0.0.1:1", "127.0.0.1:2"]
    assert told(json.dumps([good, good]))[0].startswith("r:1:")


def test_halves_of_characters() -> None:
    """JSON can spell half of a surrogate pair, which nothing could be done with later."""
    whole = '[{"address": "127.0.0.1:1", "zone": "\\ud83d\\ude00"}]'
    (endpoint,) = read_roster(whole, "r")
    assert endpoint.zone == "\U0001f600"
    (message,) = told(whole.replace("\\ude00", ""))
    assert message == "r:1:37: [0].zone: half of a surrogate pair is not a character"


def test_bytes() -> None:
    """UTF-8, or the place where it is not; and no more than is allowed."""
    assert decode_roster("[] # é".encode(), "r") == "[] # é"
    with pytest.raises(ConfigError, match=r"r:2:4: a roster is written in UTF-8"):
        decode_roster("é\n# é".encode() + b"\xff", "r")
    with pytest.raises(ConfigError, match="longer than 4 MiB"):
        decode_roster(b" " * (roster.LONGEST_ROSTER + 1), "r")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("127.0.0.1:80"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["endpoints", "address", "weight", "labels", "health_check", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.text(max_size=200), st.booleans())
def test_any_text(text: str, yaml: bool) -> None:
    """Endpoints or a ConfigError with a place, nothing else."""
    judged(text, yaml)


@given(json_values, st.sampled_from([None, 1]), st.booleans())
def test_any_json(value: Any, indent: int | None, yaml: bool) -> None:
    """Likewise for whatever JSON there is."""
    judged(json.dumps(value, indent=indent), yaml)


@given(json_values)
def test_json_is_read_as_yaml_reads_it(value: Any) -> None:
    """The quick way for JSON and the slow one for YAML agree on what is right."""
    text = json.dumps(value)
    # A comment makes it YAML; the same tree is read otherwise.
    assert judged(text, True) == judged(text + " # YAML", True)


def judged(text: str, yaml: bool) -> list[str] | None:
    """The addresses, or None when something is wrong."""
    wrong: tuple[Problem, ...] = ()
    found = []
    try:
        found = read_roster(text, "r", yaml=yaml)
    except ConfigError as error:
        wrong = error.problems
    assert all(problem.line >= 1 and problem.column >= 1 for problem in wrong)
    assert all(endpoint.address and endpoint.address.family for endpoint in found)
    return None if wrong else [str(endpoint.address) for endpoint in found]
