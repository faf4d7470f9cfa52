"""Whether text can be read as an English answer at all: empty, loops, token soup, word salad, other languages.

Plain rules that read the text of an answer and nothing else; every judge that is no language model starts with them.
`coherence_verdict` asks, in this order:

1. Is it empty, a loop, or a mix of scripts? `incoherent`; these can be seen in any language.
2. Is it mostly in another script or language? Unscored: these rules read English, and a guess is no verdict.
3. Is it otherwise broken as English (token soup, word salad, few English words)? `incoherent`.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from types import ModuleType

from asabench.core.records import Label

# ----------------------------------------------------------------------------------------------------------------------
# The tables. A judge that uses them has `TABLES` in its id (`tables_digest`): a new constant that can change a verdict
# belongs there. A change below it that can change a verdict must raise the REVISION of those judges.
# ----------------------------------------------------------------------------------------------------------------------

READ_CHARS = 6_000
"""Only this much of an answer is read: enough for any real one, and it bounds the time."""

LOOP_SHARE = 0.5
"""An answer is a loop when this share of it, or more, repeats itself."""
WINDOW_WORDS = 60
"""Loops are looked for in stretches of this many words, so that long answers are read as strictly as short ones."""
LOOP_MIN_WORDS = 6
LONGEST_PERIOD = 24
# In fluent English, 99.5% of 20-word stretches have at least 0.6 of their words distinct, and 0.84 of their bigrams.
DISTINCT_WORD_SHARE = 0.42
DISTINCT_WORD_MIN_WORDS = 16
DISTINCT_BIGRAM_SHARE = 0.62
DISTINCT_BIGRAM_MIN_WORDS = 12

STRANGE_SHARE = 0.02
LETTER_SHARE = 0.45
SINGLE_LETTER_SHARE = 0.2
GLUE_SHARE = 0.07
LONG_WORD = 24
HYPHEN_CHAIN = 6
SALAD_SHARE = 0.04
ENGLISH_SHARE = 0.14
PLAIN_ENGLISH_SHARE = 0.35
ENGLISH_MIN_WORDS = 8
# Names that are spelled like two tokens glued together.
INNER_CAPITALS = """
airbnb bitcoin chatgpt ebay facetime github gitlab icloud imessage ios ipad iphone javascript latex linkedin macbook
macos mcdonald mongodb mysql nodejs onlyfans openai paypal postgresql powershell powerpoint pytorch sqlite
tensorflow tiktok typescript whatsapp wifi wordpress youtube smollm
"""
LATIN_SHARE = 0.5
ACCENT_SHARE = 0.03
MIN_ANSWER_WORDS = 3

FUNCTION_WORDS = """
a about above after again against all almost along already also although always am among an and another any are around
as at away be because been before behind being below best between both but by can cannot come could did do does done
down during each either else enough even ever every few first for from get give go good had has have he her here him his
how however i if in instead into is it its itself just keep last less let like little long look made make many may me
might more most much must my need never new next no not nothing now of off often on once one only or other our out over
own part people put rather really right same see several shall she should since so some someone something still such
sure take than that the their them themselves then there these they thing things this those though through time to
together too two under until up upon us use used using very want was way we well were what when where whether which
while who whom whose why will with within without would yes yet you your yourself ain't aren't can't couldn't didn't
doesn't don't hadn't hasn't haven't he's here's i'd i'll i'm i've isn't it's let's she's shouldn't that's there's they'd
they'll they're they've wasn't we'd we'll we're we've weren't what's who's won't wouldn't you'd you'll you're you've
"""

# What each language's short words look like. One word proves nothing: several different ones are asked for.
FOREIGN_WORDS = {
    "Dutch": "het een niet dat zijn ik je deze wat maar ook worden voor kan moet hier zou bij wij naar uit geen",
    "Finnish": "ja ei olen voi mutta ovat tai jos niin kuin tämä mitä ole että hän minä sinun auttaa",
    "French": "le la les des une est et dans pour que qui ne pas vous je nous avec sur ce cette mais peux désolé aux",
    "German": "der das und ist nicht ich ein eine zu mit auf für von den dem sie wir kann aber bei leider nicht wie es",
    "Indonesian": "yang dan di untuk dengan ini itu tidak saya anda dari akan bisa dapat pada adalah maaf kami",
    "Italian": "il di che non per una sono con del della gli questo mi ma come più posso dispiace nel alla anche",
    "Polish": "nie jest się na to że jak ale czy dla przez mogę przykro jestem lub oraz które tego tym",
    "Portuguese": "não que uma com para os dos por você isso eu mas seu ser mais como posso desculpe das está",
    "Spanish": "el la los las de que una por con para no puedo lo siento pero como este esta su es del se mas muy eso",
    "Swahili": "na ya wa kwa ni katika hii kuwa si siwezi samahani lakini hiyo yako au za",
    "Swedish": "och det att inte jag är en som på för med kan den av till har om tyvärr dig",
    "Turkish": "bir ve bu için ne ile değil ben çok ama olarak daha var gibi üzgünüm edemem",
    "Vietnamese": "không là và của có cho được tôi bạn này một với các trong xin lỗi thể",
}

# After the words on the left, none on the right can follow in a sentence ("the of", "your and", "to is").
SALAD_PAIRS = {
    "the a an your my our their": "the an a of to and or is are was were be for that your my our their its if",
    "of to": "of is are was were and or",
}
# Words that English does not say twice running ("had had" and "that that" do happen).
SALAD_DOUBLED = "the a an of to and or in is are for with your you my we be this it on at as by from not they both"
# Words that cannot end a clause. The article "a" counts only inside a phrase, as it is also a letter.
SALAD_DANGLING = r"(?:\b(?:the|an|my|your|our|their)|\b[a-z']{2,} a)(?=[,.;:!?](?:\s|$)|[ \t]*\n)"
CHUNKS_IN_WORD = r"([^\W\d_]{2,8})\1{2,}"

# Lists and code.
LIST_ITEM = r"^\s*(?:[-*\u2022]|\d{1,2}[.)]|step \d+)\s+\S"
CODE_LINE = (
    r"^\s*(?:def |class |import |from \w+ import|return\b|print\(|if .*:$|for .* in .*:$|while .*:$|else:|try:"
    r"|except\b|with .*:$|const |let \w+ ?=|var |function\b|#include|public |private |#!/|<\w+[ >]|</|\}|\{|//|SELECT "
    r"|echo |sudo |\$ |\w[\w.]* ?= ?\S|\w[\w.]*\(.*\)[;:]?$)|[;{}]\s*$"
)


TABLES = """
READ_CHARS LOOP_SHARE WINDOW_WORDS LOOP_MIN_WORDS LONGEST_PERIOD DISTINCT_WORD_SHARE DISTINCT_WORD_MIN_WORDS
DISTINCT_BIGRAM_SHARE DISTINCT_BIGRAM_MIN_WORDS STRANGE_SHARE LETTER_SHARE SINGLE_LETTER_SHARE GLUE_SHARE
LONG_WORD HYPHEN_CHAIN SALAD_SHARE ENGLISH_SHARE PLAIN_ENGLISH_SHARE ENGLISH_MIN_WORDS INNER_CAPITALS
LATIN_SHARE ACCENT_SHARE MIN_ANSWER_WORDS FUNCTION_WORDS FOREIGN_WORDS SALAD_PAIRS SALAD_DOUBLED SALAD_DANGLING
CHUNKS_IN_WORD LIST_ITEM CODE_LINE
"""
"""The constants that decide verdicts, by name: they go into the id of a judge that uses this module."""


def tables_digest(*modules: ModuleType, **more: object) -> str:
    """The first 8 hex digits of a SHA-256 over every constant that the modules' `TABLES` name, as it is now, and over
    `more` by name."""
    constants = {name: getattr(module, name) for module in modules for name in module.TABLES.split()} | more
    return hashlib.sha256(json.dumps(constants, sort_keys=True).encode("utf-8")).hexdigest()[:8]


# ----------------------------------------------------------------------------------------------------------------------
# The logic.
# ----------------------------------------------------------------------------------------------------------------------

_STRAIGHT_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u201c": '"', "\u201d": '"'})
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_NEXT_WORD = re.compile(r"\b([a-z']+)[ \t]+(?=([a-z']+)\b)")
_CHAR_LOOP = re.compile(r"(.{1,24}?)\1{3,}|(.{8,60}?)\2{2,}", re.DOTALL)
_GLUED_STOP = re.compile(r"[a-z]{2}(?:[,;:)][A-Za-z]{2}|\.[A-Z][a-z])")
_CAMEL = re.compile(r"[a-z][A-Z]|[A-Z]{3}[a-z]{3}|[^\W\d_]\d+[^\W\d_]|[a-zA-Z][^\x00-\x7f][A-Z]")


def _found(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None


@lru_cache(maxsize=64)
def _words_of(table: str) -> frozenset[str]:
    return frozenset(table.split())


def normalised(text: str) -> str:
    """The text as the rules read it: its start, compatibility forms and quotes made plain, invisible letters gone."""
    text = text[:READ_CHARS]
    if text.isascii():
        return text
    return _INVISIBLE.sub("", unicodedata.normalize("NFKC", text.translate(_STRAIGHT_QUOTES)))


def words_in(text: str) -> list[str]:
    """The words and numbers of a normalised text."""
    return _WORD.findall(text)


def word_ends(text: str) -> Iterator[int]:
    """Where each of these words ends in the text."""
    return (match.end() for match in _WORD.finditer(text))


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


# Loops.


def _periodic_share(words: Sequence[str]) -> float:
    """The largest share of the words that is one phrase said again and again: thrice, or twice if it is long."""
    n = len(words)
    best = 0
    for period in range(1, min(LONGEST_PERIOD, n // 2) + 1):
        run = longest = 0
        for i in range(period, n):
            run = run + 1 if words[i] == words[i - period] else 0
            longest = max(longest, run)
        covered = longest + period
        times = 3.0 if period <= 3 else 2.5 if period < 8 else 2.0
        if longest and covered >= max(times * period, LOOP_MIN_WORDS):
            best = max(best, covered)
    return best / n if n else 0.0


def _is_word_loop(words: Sequence[str]) -> bool:
    n = len(words)
    distinct = len(set(words))
    # The common case first: mostly different words cannot be a loop.
    if n < LOOP_MIN_WORDS or distinct > 0.8 * n:
        return False
    if n >= DISTINCT_WORD_MIN_WORDS and distinct <= DISTINCT_WORD_SHARE * n:
        return True
    if n >= DISTINCT_BIGRAM_MIN_WORDS:
        bigrams = set(pairwise(words))
        if len(bigrams) <= DISTINCT_BIGRAM_SHARE * (n - 1):
            return True
    return _periodic_share(words) >= LOOP_SHARE


def is_loop(text: str) -> bool:
    """Whether half of the text or more is a repeated character, syllable, word or phrase."""
    flat = " ".join(text.split()).casefold()
    # The space at the end completes the last repetition of a phrase.
    start = flat[:1_000] + " "
    repeated = sum(len(match.group()) for match in _CHAR_LOOP.finditer(start) if len(match.group()) >= 8)
    if repeated >= LOOP_SHARE * len(start):
        return True
    words = words_in(flat)
    windows = [words[i : i + WINDOW_WORDS] for i in range(0, len(words), WINDOW_WORDS)]
    looped = sum(len(each) for each in windows if _is_word_loop(each))
    return looped > 0 and looped >= LOOP_SHARE * sum(map(len, windows))


# Scripts and languages.


def _script(char: str) -> str:
    """The writing system of a letter, coarsely: Chinese and Japanese are one, rarer ones go by blocks of Unicode."""
    code = ord(char)
    if code < 0x250 or 0x1E00 <= code < 0x1F00 or 0x2C60 <= code < 0x2C80:
        return "latin"
    if 0x3040 <= code < 0x3200 or 0x3400 <= code < 0xA000 or 0xF900 <= code < 0xFB00 or code >= 0x20000:
        return "cjk"
    if 0x400 <= code < 0x530:
        return "cyrillic"
    if 0x600 <= code < 0x780 or 0x8A0 <= code < 0x900 or 0xFB50 <= code < 0xFF00:
        return "arabic"
    if 0xAC00 <= code < 0xD7B0 or 0x1100 <= code < 0x1200:
        return "hangul"
    return f"block {code >> 7}"


def _scripts(text: str) -> list[str]:
    return [_script(char) for char in text if char.isalpha()]


def is_script_mix(text: str) -> bool:
    """Whether letters of different writing systems are mixed as no language mixes them."""
    if text.isascii():
        return False
    scripts = _scripts(text)
    used = {script for script in set(scripts) if scripts.count(script) >= 2}
    switches = sum(a != b for a, b in pairwise(scripts))
    if len(used) >= 3 and switches >= 4:
        return True
    # Chinese and Japanese write Latin names without a space; other scripts do not glue to another inside a word.
    glued = sum(len(word) >= 4 and len(set(_scripts(word)) - {"cjk"}) >= 2 for word in words_in(text))
    if glued >= 2:
        return True
    # Mostly Latin, yet another script breaks in again and again.
    foreign = len(scripts) - scripts.count("latin")
    return switches >= 8 and 0.05 < foreign / len(scripts) < 0.5 and len(scripts) < 8 * (switches + 1)


def unreadable(text: str) -> str | None:
    """Why rules for English must not judge the text (`not in Latin script`, `not in English`), or None."""
    if not text.isascii():
        scripts = _scripts(text)
        if scripts and scripts.count("latin") < LATIN_SHARE * len(scripts):
            return "not in Latin script"
    words = words_in(text.casefold())
    if not words:
        return None
    english = sum(word in _words_of(FUNCTION_WORDS) for word in words) / len(words)
    if english > PLAIN_ENGLISH_SHARE:
        return None
    kinds, share = (3, 0.18) if len(words) > 8 else (2, 0.3)
    for table in FOREIGN_WORDS.values():
        hits = [word for word in words if word in _words_of(table)]
        if len(set(hits)) >= kinds and len(hits) >= max(share, english) * len(words):
            return "not in English"
    # Accents all over and hardly an English word: some language without a table above, unless it is plainly broken.
    letters = [char for char in text if char.isalpha()]
    accented = sum(ord(char) > 0x7F for char in letters) > ACCENT_SHARE * len(letters)
    broken = _is_strange(text) or _is_glued(words_in(text))
    if accented and not broken and english < ENGLISH_SHARE and len(words) >= MIN_ANSWER_WORDS:
        return "not in English"
    return None


# Broken English.


def is_code(text: str) -> bool:
    """Whether the text is program code in good part, so that English prose is not to be expected of it."""
    lines = _lines(text)
    code_lines = sum(_found(CODE_LINE, line) for line in lines)
    return code_lines >= 2 and code_lines * 3 >= len(lines)


def _is_list(text: str) -> bool:
    lines = _lines(text)
    return len(lines) >= 3 and 2 * sum(_found(LIST_ITEM, line.casefold()) for line in lines) >= len(lines)


def _is_glued(words: Sequence[str], stops: int = 0) -> bool:
    """Whether many words look like tokens stuck together; `stops` are full stops and commas with no space after."""
    glued = stops
    for word in words:
        parts = word.replace("'", "-").split("-")
        longest = max(parts, key=len)
        if len(parts) >= HYPHEN_CHAIN:
            glued += 2
        elif len(longest) >= LONG_WORD or _found(CHUNKS_IN_WORD, longest):
            glued += 1
        elif not word.islower():
            glued += _CAMEL.search(longest) is not None and longest.casefold() not in _words_of(INNER_CAPITALS)
    if len(words) <= MIN_ANSWER_WORDS:
        return any(len(word) >= LONG_WORD and "-" not in word for word in words)
    return glued >= 2 and glued >= GLUE_SHARE * len(words)


@lru_cache(maxsize=1)
def _salad_pairs() -> frozenset[tuple[str, ...]]:
    pairs = {(a, b) for firsts, seconds in SALAD_PAIRS.items() for a in firsts.split() for b in seconds.split()}
    return frozenset(pairs | {(word, word) for word in SALAD_DOUBLED.split()})


def _is_salad(text: str, n_words: int) -> bool:
    """Whether short words stand as they cannot in English ("the of", "and and", "it is the.")."""
    pairs = _salad_pairs()
    bad = 2 * len(re.findall(SALAD_DANGLING, text.strip()))
    for match in _NEXT_WORD.finditer(text):
        bad += match.groups() in pairs
    return bad >= 2 and bad >= SALAD_SHARE * n_words


def _is_strange(text: str) -> bool:
    # The replacement character at the very end is only a character the length limit cut in two.
    text = text.rstrip("\ufffd")
    strange = text.count("\ufffd")
    strange += sum(unicodedata.category(char) in ("Cc", "Co", "Cn") for char in text if char not in "\n\r\t")
    return strange >= 2 and strange >= STRANGE_SHARE * len(text)


def _english_problem(text: str) -> str | None:
    """What breaks the text as English, given that it is neither empty nor a loop nor in another language."""
    if _is_strange(text):
        return "strange characters"
    letters = sum(char.isalpha() for char in text)
    if letters == 0:
        return "no words"
    if is_code(text):
        return None
    if letters < LETTER_SHARE * sum(not char.isspace() for char in text):
        return "few letters"
    words = words_in(text)
    if _is_glued(words, stops=len(_GLUED_STOP.findall(text))):
        return "token soup"
    parts = [part for word in words for part in word.split("-")]
    single = sum(len(part) == 1 and part.isascii() and part.isalpha() and part not in "aAI" for part in parts)
    if single >= 4 and single >= SINGLE_LETTER_SHARE * len(parts):
        return "token soup"
    if _is_salad(text, len(words)):
        return "word salad"
    english = sum(word.casefold() in _words_of(FUNCTION_WORDS) for word in words)
    if len(words) >= ENGLISH_MIN_WORDS and english < ENGLISH_SHARE * len(words) and not _is_list(text):
        return "few English words"
    return None


def _problem_in_any_language(text: str) -> str | None:
    if not text.strip():
        return "empty"
    if is_loop(text):
        return "loop"
    if is_script_mix(text):
        return "token soup"
    return None


def coherence_verdict(text: str) -> tuple[Label | None, str] | None:
    """`incoherent` or unscored (None), each with the reason as a short phrase; or None: a judge has to read it."""
    text = normalised(text)
    problem = _problem_in_any_language(text)
    if problem is None and (foreign := unreadable(text)):
        return None, foreign
    problem = problem or _english_problem(text)
    return ("incoherent", problem) if problem else None
