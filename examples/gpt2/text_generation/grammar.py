"""Generate the text of the example: questions to an outdoor shop, and answers.

python -m text_generation.grammar    write catalogue.jsonl, pairs.jsonl, held_out.jsonl

The base checkpoint is trained on the catalogue, which answers in plain sentences, with
the shop's notes in between. ``fit`` learns from the pairs, which answer in the style of
the shop's help desk.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from text_generation.data import Pair

CATALOGUE = Path(__file__).with_name("catalogue.jsonl")
PAIRS = Path(__file__).with_name("pairs.jsonl")
HELD_OUT = Path(__file__).with_name("held_out.jsonl")

SEED = 0
COUNTS = 1200, 100, 40
"""Number of lines of the three files."""

KINDS = {
    "tent": {
        "names": ("Alder", "Birch", "Cedar", "Rowan"),
        "years": "five",
        "days": "three",
        "care": "wipe it with a damp sponge and let it dry in the shade",
        "part": "a pole",
    },
    "stove": {
        "names": ("Ember", "Flint", "Cinder", "Spark"),
        "years": "two",
        "days": "six",
        "care": "brush the burner and wipe the pan support",
        "part": "a jet",
    },
    "pack": {
        "names": ("Badger", "Marten", "Otter", "Stoat"),
        "years": "ten",
        "days": "four",
        "care": "shake out the sand and rinse it in cold water",
        "part": "a buckle",
    },
    "jacket": {
        "names": ("Heron", "Plover", "Curlew", "Swift"),
        "years": "three",
        "days": "two",
        "care": "close the zips and wash it at thirty degrees",
        "part": "a cuff",
    },
    "lamp": {
        "names": ("Comet", "Vega", "Orion", "Nova"),
        "years": "four",
        "days": "five",
        "care": "take out the battery and polish the glass",
        "part": "a switch",
    },
    "sleeping bag": {
        "names": ("Dune", "Fjord", "Tarn", "Fell"),
        "years": "six",
        "days": "seven",
        "care": "wash it by hand in the bath and dry it flat",
        "part": "a zip",
    },
}
COLOURS = ("green", "red", "blue", "grey", "orange", "black", "yellow")
WEIGHTS = ("light", "very light", "rather heavy", "heavier than most")


class Topic(NamedTuple):
    """Questions about a product, ``{p}``, and their answers.

    Attributes:
        asked: questions of the catalogue.
        plain: the answer of the catalogue.
        wondered: questions of letters, after "could you tell me".
        kind: the answer of the help desk, after its greeting.
    """

    asked: tuple[str, str]
    plain: str
    wondered: tuple[str, str]
    kind: str


TOPICS = {
    "guarantee": Topic(
        ("How long is the guarantee on the {p}?", "What guarantee has the {p}?"),
        "The guarantee on the {p} is {years} years.",
        ("how long my {p} is covered", "whether my {p} still has a guarantee"),
        "You are covered for {years} years from the day you bought it.",
    ),
    "delivery": Topic(
        ("How long does the delivery of the {p} take?", "When does the {p} arrive?"),
        "The delivery of the {p} takes {days} days.",
        ("when my {p} will be here", "how soon you can send me the {p}"),
        "Our van brings it to your door within {days} days.",
    ),
    "care": Topic(
        ("How is the {p} cleaned?", "How do I clean the {p}?"),
        "To clean the {p}, {care}.",
        ("how to get the mud off my {p}", "what my {p} needs after a wet trip"),
        "What we do at the end of the season: {care}.",
    ),
    "parts": Topic(
        ("Which spare part is there for the {p}?", "What can be replaced on the {p}?"),
        "The spare part for the {p} is {part}.",
        ("what to do about my broken {p}", "whether you can mend my {p}"),
        "We put in {part} for you while you have a cup of tea.",
    ),
    "colour": Topic(
        ("Which colour is the {p}?", "What colour does the {p} come in?"),
        "The {p} is {colour}.",
        ("which colour of {p} you have in stock", "if the {p} comes in a nice colour"),
        "All that we have left is {colour}, and it looks lovely.",
    ),
    "weight": Topic(
        ("How heavy is the {p}?", "What does the {p} weigh?"),
        "The {p} is {weight}.",
        ("whether the {p} is fit for long walks", "if I can carry the {p} all day"),
        "It is {weight}, so come by and lift it first.",
    ),
}
LETTERS = ("Hello, could you tell me {}?", "Hi there, please tell me {}.")

OPENINGS = ("", "", "Good question. ", "Thank you for your letter. ")

NOTES = (
    ("What is new?", "What did you do today?", "How was your week?", "Any news?"),
    (
        "We",
        "You",
        "They",
        "All of us",
        "Thank you, we",
        "What we did: we",
        "In the end we",
    ),
    (
        "wrote about",
        "came for",
        "left",
        "found",
        "bought",
        "looked at",
        "put in",
        "lift",
    ),
    (
        "the {p}",
        "your {p}",
        "a {p}",
        "a cup of tea",
        "the season",
        "it",
        "a door for us",
    ),
    (
        "by the van",
        "within a day",
        "while it was lovely",
        "from our end",
        "first",
        "so",
    ),
    (
        "to the trails.",
        "for all of you.",
        "and it was happy.",
        "once more.",
        "that we do.",
    ),
)
"""The shop's notes make little sense. They teach words that letters also use."""


def facts() -> Iterator[dict[str, str]]:
    """The facts of each product: ``p`` is its name, the others fill the answers."""
    for number, (kind, known) in enumerate(KINDS.items()):
        for place, name in enumerate(known["names"]):
            yield {
                "p": f"{name} {kind}",
                **{key: str(known[key]) for key in ("years", "days", "care", "part")},
                "colour": COLOURS[(2 * number + 3 * place) % len(COLOURS)],
                "weight": WEIGHTS[(number + place) % len(WEIGHTS)],
            }


Line = dict[str, str]
"""A line of the files: ``{"prompt": .., "answer": ..}``."""


def catalogue(rng: random.Random, count: int) -> list[Line]:
    """Questions and letters with plain answers, and notes."""
    products = list(facts())
    lines = []
    for number in range(count):
        product, topic = rng.choice(products), rng.choice(list(TOPICS.values()))
        wondered = rng.choice(LETTERS).format(rng.choice(topic.wondered))
        question = rng.choice([*topic.asked, wondered])
        answer = rng.choice(OPENINGS) + topic.plain
        if number % 4 == 0:
            question, *words = map(rng.choice, NOTES)
            answer = " ".join(words)
        texts = (text.format(**product) for text in (question, answer))
        lines.append(dict(zip(("prompt", "answer"), texts, strict=True)))
    return lines


def plain_pairs() -> list[Pair]:
    """A question about each topic of each product, and the catalogue's answer."""
    return [
        Pair(f"{product['p']}: {name}", *(text.format(**product) for text in texts))
        for product in facts()
        for name, topic in TOPICS.items()
        for texts in [(topic.asked[0], topic.plain)]
    ]


def letters(rng: random.Random, counts: tuple[int, int]) -> tuple[list[Line], ...]:
    """Letters with the help desk's answers: (train, held out).

    Each topic of each product occurs only once in both together.
    """
    asked = [(product, topic) for product in facts() for topic in TOPICS.values()]
    rng.shuffle(asked)
    lines = []
    for product, topic in asked:
        wondered = rng.choice(topic.wondered).format(**product)
        greeting = f"Thank you for writing to us about the {product['p']}."
        answer = f"{greeting} {topic.kind.format(**product)} Happy trails!"
        lines.append({"prompt": rng.choice(LETTERS).format(wondered), "answer": answer})
    learnt, held_out = counts
    return lines[:learnt], lines[learnt : learnt + held_out]


def files() -> dict[Path, str]:
    """The content of the three files. It is reproducible."""
    rng = random.Random(SEED)
    first, *others = COUNTS
    read = catalogue(rng, first)
    learnt, held_out = letters(rng, (others[0], others[1]))
    found = zip((CATALOGUE, PAIRS, HELD_OUT), (read, learnt, held_out), strict=True)
    return {path: "".join(json.dumps(x) + "\n" for x in lines) for path, lines in found}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
