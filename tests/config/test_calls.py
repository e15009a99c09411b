import pytest
from ruamel.yaml import YAML

from speechbrain_cadino.config.calls import check_arguments


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: !name:fractions.Fraction {numerater: 1}", "a: .* no numerater"),
        ("a: !new:fractions.Fraction {numerater: 1}", "Did you mean numerator"),
        (
            "a:\n    - b: [!name:json.dumps {obj: 1}, !name:math.sin {x: 1}]\n"
            "    - c: !new:fractions.Fraction {top: 1}\n",
            r"a\.1\.c: fractions\.Fraction takes no top",
        ),
        ("a: !apply:glob.glob {path: x}", "a: glob.glob takes no path"),
        ("encoder: a\nembeddings: b", "encoder=a and embeddings=b: give one"),
    ],
)
def test_a_misspelt_argument_is_found_before_the_call(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_arguments(YAML().load(text))


@pytest.mark.parametrize(
    "text",
    [
        "a: !name:collections.Counter {anything: 1}",
        "a: !name:fractions.Fraction [1, 2]",
        "a: !new:nowhere.Own {x: 1}",
        "a: {b: !ref <c>}",
        "encoder: null\nembeddings: b",
    ],
)
def test_what_takes_anything_or_is_not_known_is_left_alone(text):
    check_arguments(YAML().load(text))
