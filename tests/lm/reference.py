"""Token classes written token by token on the decoded text: slow and plain."""

import unicodedata

PAIRS = {"(": ")", "[": "]", "{": "}", "“": "”", "‘": "’", "«": "»", "⟨": "⟩", "「": "」"}
TWO = set("-=*_#~.`+/|\\")


def letter(c):
    return c.isalpha() or unicodedata.category(c) in ("Mn", "Mc", "Me")


def classes(pieces):
    """Return a set of class names for every token; `pieces` are bytes, None for special."""
    result, start = [set() for _ in pieces], 0
    while start < len(pieces):
        stop = start
        while stop < len(pieces) and pieces[stop] is not None:
            stop += 1
        stretch(pieces[start:stop], result[start:stop])
        start = stop + 1
    for k in range(2, len(pieces)):
        pair = pieces[k - 1 : k + 1]
        if None not in pair and any(pieces[j - 1 : j + 1] == pair for j in range(1, k)):
            result[k].add("induction")
    return result


def stretch(pieces, result):
    """Classify tokens without special ones between them."""
    characters, owner = [], []  # one entry per byte: its character, and that character's number
    for n, c in enumerate(b"".join(pieces).decode("utf-8", "surrogateescape")):
        size = 1 if "\udc80" <= c <= "\udcff" else len(c.encode())
        characters += [c] * size
        owner += [n] * size
    at = 0
    for piece, names in zip(pieces, result, strict=True):
        stop = at + len(piece)
        mine = range(at, stop)
        begins = at > 0 and owner[at] == owner[at - 1]
        ends = stop < len(owner) and owner[stop] == owner[stop - 1]
        whole = (
            not begins and not ends and not any("\udc80" <= characters[i] <= "\udcff" for i in mine)
        )
        seen = dict.fromkeys(owner[i] for i in mine)
        text = "".join(characters[owner.index(n)] for n in seen)
        body = text.lstrip(" ")
        before = at > 0 and not begins and letter(characters[at - 1])
        left = begins or (before and text[0] != " ")
        right = ends or (stop < len(owner) and letter(characters[stop]))
        if body and all(letter(c) for c in body):
            if right:
                names.add("word_part")
            elif left:
                names.add("word_end")
            if right and not left:
                names.add("word_start")
        clean = [characters[i] for i in mine if owner.count(owner[i]) == 1 or whole]
        if any(c in "\n\r\t\v\f" for c in clean) or (whole and formatting(text, body)):
            names.add("formatting")
        if not any(letter(c) or c.isdigit() for c in body):
            delimiters(pieces, piece, body, before, names)
        at = stop


def formatting(text, body):
    if not body:
        return len(text) >= 2
    same = set(body) == {body[0]} and not body[0].isalnum()
    return same and (len(body) >= 3 or (len(body) == 2 and body[0] in TWO))


def delimiters(pieces, piece, body, before, names):
    own = piece.decode("utf-8", "ignore").lstrip(" ")  # whole characters only
    if before and own.startswith("’") and piece.startswith("’".encode()):
        own = own[1:]
    stack = []
    for c in own:
        if c in PAIRS:
            stack.append(PAIRS[c])
        elif c in PAIRS.values():
            if stack and stack[-1] == c:
                stack.pop()
            else:
                names.add("right_delimiter")
    if stack:
        names.add("left_delimiter")
