"""The page of `chunks --html`: what it shows, what it never does, and how a browser draws it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.display import chunks_page as pages
from jobs.display.chunks_page import ChunkedDocument, ChunkSettings, histogram, page
from pipeline.records import Chunk
from tests.support import require

CUTTING = ChunkSettings("reports.jsonl", "structure", 64, 16, "o200k_base")
ENGLISH = "The weir held all winter. The lock did not flood. The ferry <b>ran</b> & stopped."
CHINESE = "渡船俱乐部在汛期停止营业。\n码头上的乘客改乘公共汽车。"
ARABIC = "توقفت العبّارة (cable No. 7) بعد 12 دقيقة. لم يُصب أحد بأذى.\nسُجّلت سرعة الرياح."


def cut(text, *spans, name="d", section=None, shared=None):
    """A document with chunks at these spans; each character is a token."""
    chunks = [Chunk(start, end, end - start, section) for start, end in spans]
    if shared is None:
        ends = [0, *(end for _, end in spans)]
        shared = [max(0, ends[at] - start) for at, (start, _) in enumerate(spans)]
    return ChunkedDocument(name, text, chunks, shared)


def halves(text, overlap=6):
    middle = len(text) // 2
    return cut(text, (0, middle), (middle - overlap, len(text)))


class Reader(HTMLParser):
    """The texts that stand in the page, and the attributes of every element."""

    def __init__(self, html):
        super().__init__()
        self.texts, self.elements, self._depth = [], [], 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.elements.append((tag, named))
        if tag == "div":
            self._depth += 1
            if named.get("class") == "text":
                self.texts.append("")
                self._depth = 1

    def handle_endtag(self, tag):
        if tag == "div":
            self._depth = 0

    def handle_data(self, data):
        if self._depth and self.texts:
            self.texts[-1] += data

    def of_class(self, name):
        return [at for _, at in self.elements if name in (at.get("class") or "").split()]


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1), st.data())
def test_every_character_appears_once_and_in_order(text, data):
    bounds = sorted(data.draw(st.sets(st.integers(1, len(text)), max_size=6)) | {len(text)})
    spans, before = [], 0
    for end in bounds:
        start = data.draw(st.integers(spans[-1][0] if spans else 0, before))
        spans.append((start, end))
        before = end
    read = Reader(page(CUTTING, [cut(text, *spans)]))
    assert read.texts == [text]
    assert len(read.of_class("c")) == len(spans) + 2  # and two of the legend


@given(st.text(), st.text(), st.text())
def test_nothing_of_a_document_becomes_markup_or_a_control(text, name, section):
    made = page(CUTTING, [cut(text, (0, len(text)), section=section, name=name)])
    tags_shown = [(tag, attrs.get("class")) for tag, attrs in Reader(made).elements]
    body = tags_shown[[tag for tag, _ in tags_shown].index("section"):]
    assert {*body} <= {
        ("section", None), ("h2", None), ("bdi", None), ("p", "counts"), ("div", "text"),
        ("span", "c a"), ("b", "x"),
    }
    assert [tag for tag, _ in body if tag != "b"] == ["section", "h2", "bdi", "p", "div", "span"]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", made)


def test_the_page_loads_nothing_and_runs_nothing():
    made = page(CUTTING, [halves("<script src=//x></script><img src=x onerror=y>" * 2)])
    read = Reader(made)
    assert not {"script", "link", "img", "iframe", "base"} & {tag for tag, _ in read.elements}
    assert not [at for _, at in read.elements if {"src", "onclick", "onerror", "style"} & set(at)]
    style = made[made.index("<style>") : made.index("</style>")]
    assert "url(" not in style and "@import" not in style and "</" not in style
    assert "default-src 'none'" in made


def test_what_acts_unseen_is_shown_as_an_escape():
    text = "a\x00b\r\nc\td\u202ee\u200bf\x1b[2J گل\u200cها ۝"
    read = Reader(page(CUTTING, [cut(text, (0, len(text)))]))
    assert read.texts == ["a\\x00b\\r\nc\td\\u202ee\\u200bf\\x1b[2J گل\u200cها ۝"]


def test_shared_text_appears_once_under_the_number_of_the_chunk_that_begins_there():
    made = page(CUTTING, [cut("abcdefghij", (0, 6), (4, 10), section="Guide > <Tide>")])
    assert (
        '<span class="c a" tabindex="0" data-n="0" data-tip="chunk 0 · characters 0..6 · 6 tokens'
        ' · 2 with chunk 1 · \u2068Guide &gt; &lt;Tide&gt;\u2069">abcd'
        '<span class="o e" data-n="1">ef</span></span>'
        '<span class="c b" tabindex="0" data-tip="chunk 1 · characters 4..10 · 6 tokens'
        ' · 2 of them shared with chunk 0 · \u2068Guide &gt; &lt;Tide&gt;\u2069">ghij</span></div>'
    ) in made


def test_text_in_no_chunk_is_seen():
    made = page(CUTTING, [cut("ab--cd--", (0, 2), (4, 6))])
    assert made.count('<s class="gap" title="in no chunk">--</s>') == 2
    assert 'class="gap"' not in page(CUTTING, [cut(" \n")])


def test_the_heading_says_how_it_was_cut():
    made = page(CUTTING, [halves(ENGLISH), ChunkedDocument("r-2", error="in.jsonl:2: not an object")])
    for name, value in [
        ("method", "structure"), ("size", "64 tokens"), ("overlap", "16 tokens"),
        ("tokenizer", "o200k_base"), ("documents", "2"), ("chunks", "2"),
    ]:
        assert f"<dt>{name}</dt><dd>{value}</dd>" in made
    assert '<h1><bdi dir="auto">reports.jsonl</bdi></h1>' in made
    assert '<p class="note">in.jsonl:2: not an object</p>' in made


def test_the_histogram_counts_every_chunk_up_to_the_size():
    made = histogram([1, 1, 8, 64], 64)
    tags_shown = re.findall(r"<title>([^<]+)</title>", made)
    assert [line for line in tags_shown if not line.endswith(" 0 chunks")] == [
        "1 to 2 tokens: 2 chunks", "7 to 8 tokens: 1 chunk", "63 to 64 tokens: 1 chunk",
    ]
    assert "smallest 1, median 8, largest 64 tokens" in made
    assert "<span>3 tokens</span>" in histogram([3], 100_000)
    assert histogram([], 64) == ""


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=50), st.integers(1, 10**9))
def test_the_bars_add_up(sizes, size):
    counts = re.findall(r"tokens?: ([\d,]+) chunk", histogram(sizes, size))
    assert sum(int(count.replace(",", "")) for count in counts) == len(sizes)


def test_what_is_left_out_is_stated(monkeypatch):
    monkeypatch.setattr(pages, "MAX_CHARS", 20)
    taken = []

    def documents():
        for name in "abc":
            taken.append(name)
            yield cut("0123456789" * 3, (0, 8), (8, 16), (16, 30), name=name)

    made = page(CUTTING, documents(), 3)
    read = Reader(made)
    assert read.texts == ["0123456789012345", "0123"]
    assert taken == ["a", "b"]
    assert "The page shows this document up to character 16 of 30: 2 of 3 chunks" in made
    assert "The first 2 of 3 documents; the others are not on this page" in made
    monkeypatch.setattr(pages, "MAX_CHUNKS", 1)
    assert Reader(page(CUTTING, [cut("abcd", (0, 2), (2, 4))], 1)).texts == ["ab"]
    monkeypatch.setattr(pages, "MAX_DOCUMENTS", 2)
    short = [cut("x", (0, 1), name=name) for name in "abc"]
    monkeypatch.setattr(pages, "MAX_CHUNKS", 100)
    assert "The first 2 of 3 documents" in page(CUTTING, short, 3)
    assert "The first" not in page(CUTTING, short[:2], 2)


@pytest.mark.parametrize(("text", "lang"), [
    (ENGLISH, None), (CHINESE, "zh-Hans"), ("這個國家的渡船", "zh-Hant"), ("渡し船の報告", "ja"),
    ("나룻배 報告", "ko"), (ARABIC, None),
])
def test_han_characters_are_drawn_as_their_readers_know_them(text, lang):
    (text_element,) = Reader(page(CUTTING, [halves(text, 1)])).of_class("text")
    assert (text_element.get("lang"), text_element["dir"]) == (lang, "auto")


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--window-size=900,700",
]
MEASURE = """<script>
const seen = (element, part) => getComputedStyle(element, part);
const box = element => { const r = element.getClientRects()[0]; return [r.left, r.right, r.top] };
const of = name => [...document.querySelectorAll('.text ' + name)];
of('.c')[0].classList.add('pointed');
document.body.dataset.seen = JSON.stringify({
  chunks: of('.c').map(each => each.textContent), boxes: of('.c').map(box), shared: of('.o').map(box),
  colours: of('.c').map(each => seen(each).backgroundColor), striped: seen(of('.o')[0]).backgroundImage,
  texts: of('').length, tip: seen(of('.c')[0], '::after').content,
  tips: of('.c').map(each => seen(each, '::after').position), badge: seen(of('.c')[0], '::before').content,
  paper: seen(document.body).backgroundColor, wide: document.documentElement.scrollWidth,
  edges: [...document.querySelectorAll('.text')].map(each => box(each).slice(0, 2)),
});
</script></body>"""


@pytest.fixture
def browser(tmp_path):
    """Opens a page in Chromium, measures it with a script of the test's own, and tells."""
    require(CHROMIUM, "a browser", "apt-get install chromium")

    def opened(html, *flags):
        path = tmp_path / "page.html"
        # A page without a window may or may not have the focus: a class stands for it.
        html = re.sub(r":focus\b(?!-)", ".pointed", html).replace("</body>", MEASURE)
        html = re.sub("<meta http-equiv[^>]+>", "", html)
        path.write_text(html, "utf-8")
        ran = subprocess.run(
            [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
             path.as_uri()],
            capture_output=True, timeout=120, check=True,
        )
        (body,) = [at for tag, at in Reader(ran.stdout.decode()).elements if tag == "body"]
        return json.loads(body["data-seen"])

    return opened


@pytest.mark.slow
def test_a_browser_shows_the_chunks_their_colours_and_what_is_pointed_at(browser):
    seen = browser(page(CUTTING, [halves(ENGLISH), halves(CHINESE, 3)]))
    assert seen["chunks"] == [ENGLISH[:40], ENGLISH[40:], CHINESE[:13], CHINESE[13:]]
    assert len({*seen["colours"][1:3]}) == 2
    assert seen["striped"].startswith("repeating-linear-gradient")
    assert seen["tip"] == '"chunk 0 · characters 0..40 · 40 tokens · 6 with chunk 1"'
    assert seen["tips"] == ["fixed", "static", "static", "static"]
    assert seen["badge"] == '"0"'
    assert seen["wide"] == 900


@pytest.mark.slow
def test_a_browser_sets_right_to_left_lines_from_the_right(browser):
    seen = browser(page(CUTTING, [halves(ARABIC), halves(ENGLISH)]))
    (arabic_left, arabic_right), (english_left, _) = seen["edges"]
    first, second, english, _ = seen["boxes"]
    shared, _ = seen["shared"]
    assert abs(first[1] - arabic_right) < 2 and first[0] > arabic_left + 100
    assert abs(english[0] - english_left) < 2
    assert shared[1] < first[1] and second[1] <= shared[0] + 2  # each goes on to the left


@pytest.mark.slow
def test_a_dark_page_is_dark(browser):
    made = page(CUTTING, [halves(ENGLISH)])
    light, dark = (browser(made, *flags)["paper"] for flags in ([], ["--force-dark-mode"]))
    assert min(map(int, re.findall(r"\d+", light))) > 230
    assert max(map(int, re.findall(r"\d+", dark))) < 40
