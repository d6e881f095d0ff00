"""Whether a class word names a person, for whom a consent record is needed."""

from __future__ import annotations

import re
import unicodedata

_WORDS = """
person people human man woman men women boy girl child children kid baby toddler infant teenager teen adult guy lady
gentleman gentlemen male female face self selfie actor actress celebrity singer musician dancer athlete politician
doctor nurse teacher student worker employee colleague father mother dad mum mom parent son daughter brother
sister sibling twin husband wife wives spouse boyfriend girlfriend fiance fiancee partner uncle aunt nephew niece cousin
grandfather grandmother grandpa grandma grandparent grandchild grandchildren friend bride groom customer
"""
_OF_WHOM_WORDS = "photo photograph picture portrait headshot image group couple pair crowd family face"
_AROUND_WORDS = "with in on at from by for near under behind beside holding wearing who that and"
_JAPANESE_WORDS = """
人 人物 男性 女性 男 女 男子 女子 子供 子ども こども 少年 少女 男の子 女の子 赤ちゃん 赤ん坊 幼児 児童 大人 若者 老人
高齢者
父 母 父親 母親 兄 弟 姉 妹 兄弟 姉妹 息子 娘 夫 妻 夫婦 家族 祖父 祖母 友達 友人 俳優 女優 歌手 花嫁 花婿 彼 彼女 自分
本人
おじいさん おばあさん
"""
PEOPLE = frozenset(_WORDS.split())
_OF_WHOM = frozenset(_OF_WHOM_WORDS.split())  # a picture or a number of what follows "of"
_AROUND = frozenset(_AROUND_WORDS.split())  # what follows is around the subject, not the subject
_JAPANESE_ENDS = tuple(_JAPANESE_WORDS.split())
_JAPANESE_PLURALS = re.compile("(たち|達|ら|々|さん|ちゃん|くん|君)$")
_JAPANESE_ALONE = frozenset({"顔", "自撮り", "ポートレート"})


def is_person(class_word: str) -> bool:
    """Whether the head of a class word names a person, such as "two young women", "woman in red" or "若い女性".

    Person words that only describe something else do not count: "man cave", "woman's bag". A person under another
    word is known by a consent record alone.
    """
    text = unicodedata.normalize("NFKC", class_word).casefold()
    return _is_japanese_person(text) or _is_english_person(re.findall(r"[^\W\d_]+(?:['’]\w+)*", text.split(",")[0]))


def _is_english_person(words: list[str]) -> bool:
    for place, word in enumerate(words):
        if word == "of":
            pictured = _singular(words[place - 1]) & _OF_WHOM if place else set[str]()
            return _names_person(words[:place]) or (bool(pictured) and _is_english_person(words[place + 1 :]))
        if word in _AROUND and place:
            return _names_person(words[:place])
    return _names_person(words)


def _names_person(words: list[str]) -> bool:
    return bool(words) and (bool(_singular(words[-1]) & PEOPLE) or words[-1] in ("couple", "family", "crowd"))


def _singular(word: str) -> set[str]:
    """The word, and what it may be the plural of."""
    forms = {word, word.removesuffix("s"), word.removesuffix("es")}
    return forms | ({word[:-3] + "y"} if word.endswith("ies") else set())


def _is_japanese_person(text: str) -> bool:
    text = "".join(text.split())
    bare = _JAPANESE_PLURALS.sub("", text)
    picture = re.sub("の(写真|画像|顔|肖像|顔写真)$", "", text)
    ends = {text, bare, picture, _JAPANESE_PLURALS.sub("", picture)}
    return text in _JAPANESE_ALONE or any(one.endswith(_JAPANESE_ENDS) for one in ends)
