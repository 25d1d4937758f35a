"""Texts of many shapes, with the spans of the units that no cut may split where they fit."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from typing import NamedTuple


class Shape(NamedTuple):
    """A text and its units."""

    text: str
    units: list[tuple[int, int]]
    """Spans of cues, functions, sentences ..., without the blanks around them."""


def joined(pieces: Iterable[str], gap: str, head: str = "", tail: str = "") -> Shape:
    """The pieces with a gap between them; each is a unit."""
    text, units = head, []
    for piece in pieces:
        units.append((len(text), len(text) + len(piece)))
        text += piece + gap
    return Shape(text.removesuffix(gap) + tail, units)


# Sentences with all that a point may mean; none ends before its last character.
SENTENCES = {
    "english": [
        "Dr. Ames met J. R. Hill at 5 p.m. on Jan. 3 near No. 12.",
        "The kiln, cf. fig. 4, cost approx. $3.50 per day.",
        "It was built in 1990.",
        "Then, e.g. in the U.S. Army, nobody asked for it.",
    ],
    "german": [
        "Am 3. Mai kam die 2. Lieferung z. B. nach Ulm.",
        "Das waren ca. 7 kg, d. h. etwa 2 Std. zu Fuß mit Prof. Vogt.",
        "Im 19. Jh. stand hier, vgl. Abb. 3, ein Ofen u. a. für Ziegel.",
        "Gebaut wurde er 1990.",
        "Danach war Ruhe.",
    ],
    "french": [
        "M. Petit et Mme Roy, cf. p. 12, ont vu le four.",
        "Il date d'env. 300 av. J.-C. selon le chap. 3.",
        "Le four fut construit en 1990.",
        "Puis il fut vendu.",
    ],
    "spanish": [
        "El Sr. Ruiz vive en la Avda. Mayor núm. 5 desde ayer.",
        "La Dra. Gil, p. ej., lo vio en la pág. 12.",
        "Se hizo en 1990.",
        "Luego se vendió.",
    ],
    "italian": [
        "Il sig. Conti e il dott. Neri abitano al n. 5.",
        "Vedi pag. 12 e fig. 3 del cap. 2.",
        "Fu costruito nel 1990.",
        "Poi fu venduto.",
    ],
    "portuguese": [
        "O Sr. Melo e a Dra. Pinto moram na Av. Central.",
        "Veja a pág. 12 e o cap. 3 do livro.",
        "Foi feito em 1990.",
        "Depois foi vendido.",
    ],
    "dutch": [
        "Dhr. Bakker en mevr. Smit wonen op nr. 5.",
        "Zie blz. 12 en hfst. 3 voor meer.",
        "Hij is gebouwd in 1990.",
        "Daarna werd hij verkocht.",
    ],
    "polish": [
        "Prof. Lis mieszka przy ul. Polnej 5 od 3. maja.",
        "To tzw. piec, por. rys. 3 i tab. 2.",
        "Zbudowano go w 1990.",
        "Potem go sprzedano.",
    ],
    "czech": [
        "Dne 3. května přišel např. Karel z domu č. 5.",
        "Viz obr. 3 a odst. 2 tzv. zákona.",
        "Postavili ji v roce 1990.",
        "Pak ji prodali.",
    ],
    "swedish": ["Den 3. maj kom t.ex. Anna till nr. 5.", "Den byggdes 1990.", "Sedan såldes den."],
    "finnish": ["Hän tuli 3. toukokuuta esim. Turkuun.", "Se tehtiin 1990.", "Sitten se myytiin."],
    "hungarian": ["Az 5. napon, május 3. körül jött dr. Nagy.", "Ez 1990.", "Aztán eladták."],
    "turkish": ["Prof. Kaya 19. yüzyılda yaşadı, bkz. sayfa 5.", "Bu 1990.", "Sonra satıldı."],
    "russian": [
        "Проф. Белов жил на ул. Мира, д. 5, в г. Омске.",
        "А. С. Орлов, см. рис. 3, писал о печи.",
        "Её построили в 1990.",
        "Потом продали.",
    ],
    "greek": ["Ο κ. Νίκου μένει εδώ, βλ. σελ. 5.", "Χτίστηκε το 1990.", "Μετά πουλήθηκε."],
}
UNSPACED = {
    "chinese": [
        "窑是早上六点点着的，老周从来不信它。",
        "他说：“行……不行。”",
        "四十个盘子裂了十四个！",
    ],
    "japanese": [
        "「行くよ。」と彼は言った。",
        "窯は六時に火が入り、昼には曲がっていた。",
        "そう……だね。",
    ],
}
SPACED = {
    "korean": [
        "가마는 아침 여섯 시에 불을 붙였다.",
        "아무도 대답하지 않았다.",
        "두 번째는 더 나빴다.",
    ],
    "arabic": ["أشعل الفرن في الساعة السادسة صباحا.", "لم يجب أحد؟", "كانت المرة الثانية أسوأ."],
    "hindi": ["भट्ठी सुबह छह बजे जलाई गई।", "किसी ने जवाब नहीं दिया।", "दूसरी बार और बुरा था।"],
}


def prose(sentences: list[str], rng: random.Random, width: int = 0, gap: str = " ") -> Shape:
    """Paragraphs of these sentences, hard-wrapped at `width`; each sentence is a unit."""
    text, units = "", []
    for _ in range(12):
        body, spans = joined(rng.choices(sentences, k=rng.randint(3, 7)), gap)
        if width:
            body = wrapped(body, width)
        units += [(len(text) + start, len(text) + end) for start, end in spans]
        text += body + "\n\n"
    return Shape(text, units)


def wrapped(text: str, width: int) -> str:
    """The text with a line break in place of the last blank of each full line."""
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return "\n".join([*lines, line])


FUNCTIONS: dict[str, Callable[[int], str]] = {
    "python": lambda n: (
        f"def total_{n}(rows):\n    # Adds the rows. Nothing else.\n    total = {n}\n\n"
        f"    for row in rows:\n        total += row\n    return total"
    ),
    "javascript": lambda n: (
        f"function total{n}(rows) {{\n  let total = {n};\n\n  for (const row of rows) {{\n"
        f"    total += row;\n  }}\n  return total;\n}}"
    ),
    "c": lambda n: (
        f"int total_{n}(int *rows, int size)\n{{\n\tint total = {n};\n\n"
        f"\twhile (size--)\n\t\ttotal += *rows++;\n\treturn total;\n}}"
    ),
    "go": lambda n: (
        f"func total{n}(rows []int) int {{\n\ttotal := {n}\n\n\tfor _, row := range rows {{\n"
        f"\t\ttotal += row\n\t}}\n\treturn total\n}}"
    ),
    "ruby": lambda n: (
        f"def total_{n}(rows)\n  total = {n}\n\n  rows.each do |row|\n    total += row\n  end\n"
        f"  total\nend"
    ),
    "sql": lambda n: (
        f"CREATE VIEW totals_{n} AS\n  SELECT shop, sum(price) AS total\n  FROM sales\n"
        f"  WHERE shop = {n}\n  GROUP BY shop;"
    ),
}


def stamp(second: int, mark: str) -> str:
    return f"00:{second // 60:02}:{second % 60:02}{mark}000"


def shapes() -> dict[str, Shape]:
    """Every shape by name; the same at each call."""
    rng = random.Random(7)
    made: dict[str, Shape] = {}
    for language, sentences in {**SENTENCES, **SPACED}.items():
        made[language] = prose(sentences, rng)
    for language, sentences in SENTENCES.items():
        made[f"{language}, wrapped"] = prose(sentences, rng, width=64)
    for language, sentences in UNSPACED.items():
        made[language] = prose(sentences, rng, gap="")
    for language, function in FUNCTIONS.items():
        made[language] = joined(map(function, range(30)), "\n\n")
        made[f"{language}, close"] = joined(map(function, range(30)), "\n")
    for name, mark, head in (("srt", ",", ""), ("vtt", ".", "WEBVTT\n\n")):
        cues = [
            f"{n}\n{stamp(n * 3, mark)} --> {stamp(n * 3 + 2, mark)}\nand the wheel went on,\n"
            f"turning. Once more, number {n}"
            for n in range(1, 60)
        ]
        made[name] = joined(cues, "\n\n", head)
    made["minified json"] = joined(
        (json.dumps({"id": n, "name": f"a gate. No {n}", "in": {"k": [n, 2]}}, separators=(",", ":"))
         for n in range(80)), ",", "[", "]",
    )  # fmt: skip
    made["json in one line"] = joined(
        (json.dumps({"id": n, "name": f"gate {n}", "tags": ["a", "b"]}) for n in range(80)),
        ", ", '{"rows": [', "]}",
    )  # fmt: skip
    made["pretty json"] = joined(
        ("\n".join("    " + line for line in json.dumps({"id": n, "in": {"k": n}}, indent=4).split("\n")).strip()
         for n in range(60)), ",\n    ", "[\n    ", "\n]\n",
    )  # fmt: skip
    made["minified script"] = joined(
        (f'function f{n}(a,b){{var c="x; y, z";return a+b+{n}}}' for n in range(80)), ";"
    )
    made["minified css"] = joined((f".a{n}{{color:red;margin:0 {n}px}}" for n in range(120)), "")
    made["minified html"] = joined(
        (f'<li class="a"><b>Gate {n}</b><i>open</i></li>' for n in range(80)), "", "<ul>", "</ul>"
    )
    made["stanzas"] = joined(
        (f"the wheel went round and round,\n  and {n} times it came\nback over the same ground"
         for n in range(60)), "\n\n",
    )  # fmt: skip
    made["pages"] = joined(
        (f"Page {n}\n\nThe kiln was lit at six. It held.\n\nNobody answered him, {n} times."
         for n in range(40)), "\n\f",
    )  # fmt: skip
    made["dialogue"] = joined(
        (f"{name}: Where were you?\nI waited at the {n}th gate.\nIt was late."
         for n in range(40) for name in ("ANNA", "Old Ben")), "\n",
    )  # fmt: skip
    made["questions"] = joined(
        (f"Q: Which gate is number {n}?\nA: The one behind the kiln.\nIt is {n} feet wide."
         for n in range(60)), "\n",
    )  # fmt: skip
    made["questions apart"] = joined(
        (f"Question {n}: Which gate?\n\nAnswer: The one behind the kiln." for n in range(60)),
        "\n\n",
    )
    made["definitions"] = joined(
        (f"gate {n}\n: The way in, and the way out.\n: Also a word for a fee." for n in range(60)),
        "\n\n",
    )
    made["glossary"] = joined(
        (f"gate-{n}\n    The way in, and the way out.\n    See also: kiln." for n in range(60)),
        "\n",
    )
    made["nested list"] = joined(
        (f"- The gate {n} is open.\n  It was painted.\n  - by hand\n  - in red, {n} times"
         for n in range(60)), "\n", "What was found:\n",
    )  # fmt: skip
    made["loose list"] = joined(
        (f"{n}. The gate is open.\n\n   It was painted. Nobody knows when." for n in range(1, 60)),
        "\n\n",
    )
    made["clauses"] = joined(
        (f"{n}.1 The tenant keeps the gate shut. He pays for it." for n in range(1, 60)), "\n"
    )
    made["table"] = joined(
        (f"| gate {n} | open. So it is | {n * 7} |" for n in range(80)), "\n",
        "| name | state | price |\n|---|---|---:|\n",
    )  # fmt: skip
    made["csv"] = joined((f"{n},gate {n},open and wide,{n * 7}.50" for n in range(80)), "\n")
    made["log"] = joined(
        (f"2026-01-02T03:04:{n % 60:02} ERROR gate {n} failed. Trying again.\n"
         f"  at open (gate.js:{n})\n  at main (gate.js:1)" for n in range(60)), "\n",
    )  # fmt: skip
    made["fences"] = joined(
        (f"```py\ngate = {n}\n\n# a comment. Another\nopen(gate)\n```" for n in range(40)),
        "\n\nThe next one follows.\n\n",
    )
    made["emoji"] = joined(("👨‍👩‍👧🇩🇪👍🏽❤️ 🏳️‍🌈👩🏽‍🚀" for _ in range(60)), "\n")
    made["thai"] = Shape("เตาเผาถูกจุดไฟตอนหกโมงเช้าไม่มีใครตอบ " * 40, [])
    return made
