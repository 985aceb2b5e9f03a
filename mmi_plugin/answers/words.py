"""Patterns for the letters in an answer, and for words that deny, doubt or affirm them.

All patterns of this module and of `cues` are for texts as `text.squeezed` gives them, in which every
option's text is replaced by \\0.
"""

from __future__ import annotations

import re


def expand(text: str) -> str:
    """Return a pattern without its line breaks and with (?:a|b) for each «a; b».

    What stands in « » are phrases (patterns themselves), which semicolons or line ends separate. Elsewhere a line
    break takes the indentation after it along; a blank there is written as [ ].
    """
    text = re.sub("«(.*?)»", lambda listed: _any_of(listed[1]), text, flags=re.DOTALL)
    return re.sub(r"\n\s*", "", text)


def _any_of(phrases: str) -> str:
    return "(?:" + "|".join(phrase for part in re.split(r"[;\n]", phrases) if (phrase := part.strip())) + ")"


def pattern(text: str) -> re.Pattern[str]:
    """Return the compiled pattern, for which case does not matter. `text`: as for `expand`."""
    return re.compile(expand(text), re.IGNORECASE)


# ---- Letters

_UNSPACED = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # Thai, kana, Han, Hangul
WORD = rf"[^\W{_UNSPACED}]"
"""A character of a word, but for scripts that set no blanks between words."""

# "option B", "la letra B", "选项B": B is surely a label.
_TITLE = expand(r"""
    (?:\b(?:(?:the|la|el|le|a|o|die|der|den) )?«option; choice; letter; alternative; opci[oó]n; op[cç][aã]o; opzione
        alternativa; letra; lettera; lettre; buchstabe; optie; opcja; pilihan; seçenek; вариант; буква; विकल्प
        lựa chọn»|选项|選項|選択肢|선택지|보기|ตัวเลือก)(?: ?[#-]? ?)
""")
# A letter that is not in a word, nor of "D.C.", "vitamin-C", "B-52", "C++", "A-", "5 °C".
_LETTER = (
    rf"(?<!{WORD})(?<!{WORD}')(?<!\w\w-)(?<!\b[A-Za-z]\.)(?<![°@&$])[A-Za-z](?!{WORD})(?!'(?!d[ıiuü]r|t[ıiuü]r)\w)"
    r"(?!-\w\w)(?!\.[A-Za-z]\b)(?![+#°%]|-(?:$|[.,!?\n]))"
)
# A single letter, with its title and brackets; a small one without them only before the end of a clause or a mark.
LABEL = re.compile(
    rf"(?P<title>(?i:{_TITLE}))?(?:\( ?(?P<bracketed>{_LETTER}) ?\)"
    rf"|(?P<bare>{_LETTER}(?:(?<=[A-Z])|(?(title)|(?= ?(?:[.,;:!)\n|=→>-]|$))))))"
)
# What follows an A that is a label and no article, as in "A dog": no word, or one that no noun phrase begins with.
NO_ARTICLE = pattern(rf"""
    [ \n]?(?:$|[^\w\s]|\n|[{_UNSPACED}]| [^\x00-\u024f]| [a-z](?!\w)| «because; since; as; for; due; given; based
        according; in; over; from; and; or; but; not; rather; instead; if; while; which; the; is; are; was; were
        does; did; do; can; could; will; would; must; should; may; might; cannot; \w+n't; seems?; appears; looks
        sounds; feels; matches; fits; works; corresponds; describes; shows; it; it's; est; ist; es; è; é; и; или
        oder; und; ou; et»\b)
""")
# "the second option": its group is the option's number.
ORDINAL = pattern(
    r"\bthe (?:(first|1st)|(second|2nd)|(third|3rd)|(fourth|4th)|(fifth|5th)|(last)) (?:option|alternative)\b"
)

# ---- Clauses

# Where a clause begins, within which a denial reaches forward: after the end of a sentence or a dash, at a
# conjunction, and after a comma or colon before a new subject.
_NEW_SUBJECT = expand(
    "«i; i'd; i'll; i'm; my; we; it; it's; this; that; that's; the; these; those; there; answer; let; let's»"
)
CLAUSE = pattern(rf"""
    [;!?\n]|\.(?!\d)|(?<!\d)\.| [-→] |→
    |,? ?\b«(?<!all )(?<!thing )(?<!options )(?<!none )but(?! also); however; so; yet; hence; thus; therefore; because
        since; although; though; even though; whereas; while; despite; then; which; if; unless; otherwise; sino; mais
        sondern; aber; ma; pero; mas; но»\b
    |,? ?(?:而是|但是|但|所以|因此|故)
    |[,:] ?(?=答案|正确|我|{_NEW_SUBJECT}\b|\(?[b-z]\)? (?:is|was|fits|matches|seems|would|it)\b)
    |\band (?=«it; it's; this; that; i; the; is; looks; has; so; therefore; thus; choose; chose; pick»\b)
""")
# Words that deny what follows them in their clause.
DENIED = pattern(r"""
    \b«hardly; barely; less(?! than); scarcely; far from; least likely; nothing like; lack\w*; absen\w+
        mistak\w+ for; refus\w+; declin\w+; avoid\w*; not(?! only\b); no(?! ?(?:[,:.!]|doubt|question|wait)); never
        neither; nor; cannot; \w+n't; none; without(?! (?:a |any )?doubt); isnt; dont; doesnt; arent; wasnt; cant
        wont; unlikely; improbable; doubtful; impossible; wrong; incorrect; false; invalid; rather than; instead of
        (?:as )?opposed to; unlike; other than; apart from; except(?:ing)?; (?:any|every|no)thing but; than
        (?:all|options|none)(?: of them)? but; exclud\w+; eliminat\w+; rul\w+ out; discard\w*; reject\w*; dismiss\w*
        (?:over|against)(?= \W*$); nicht; kein\w*; pas; non; não; nao; не; нет; nie; niet; değil; không; bukan; inte
        ikke»\b|[不非]|ไม่|नहीं|ليست?
""")
# Words that make what follows them in their clause no more than possible, or somebody else's opinion.
DOUBTED = pattern(r"""
    \b«might; may; maybe; perhaps; possibly; it(?: is|'s) possible; could; whether; unsure; uncertain; unclear
        unknown; not (?:sure|certain|clear|only); (?<!no )(?<!a )(?<!any )(?<!without )doubt\w*
        (?<!second )thought(?! process); at first; initially; originally; previously; was going to; although; though
        whereas; while; despite; unless; suppose; assuming
        (?:let's|let us) (?:assume|suppose|consider|take|try|test|say|start); tempt\w*; mislead\w*; confus\w*; runner
        next best; alternatively; (?:some|many|most) (?:people|would|might); according to (?:some|others|many)
        (?:second|third|next|other|closest|another) (?:best |most likely )?(?:option|answer|choice|guess|candidate)
        (?:was|been|is|are|were) (?:told|said|described|labell?ed|called|claimed|supposed); labell?ed; the words?
        (?:should|would) have been; used to
        (?:you|they|he|she|it|people|users|someone|others) (?:\w{2,12} )?(?:sa(?:ys?|id)|claim(?:s|ed)?|told)
        (?:you|they|he|she|people|users|someone|others) (?:\w{2,12} )?(?:choose|chose|picks?|thinks?|believes?)
        when(?= \W*$); potentially; supposedly; allegedly; stands for; denotes; refers to; peut-être; vielleicht
        quizás?; talvez; forse; возможно»\b
    |可能|也许|或许|是否|不确定
    |\b«caption; text; sentence; statement; description; sign; writing; title; note; user; prompt; question; hint
        context; label»s?\b[^.;!?\n]{0,30}\b«sa(?:ys?|id|ying); claim\w*; suggest\w*; stat(?:es?|ed|ing); reads?
        mention\w*; indicat\w*; calls?; describ\w*; asserts?; names?; insists?; asks?; tells?; refers?»\b
""")
# What makes the rest of a sentence a supposition: "if it is a three, then the answer is B".
SUPPOSED = pattern(
    r"\b(?:if|assum\w+|suppos\w+|in case|provided)\b"
    r"(?! (?:i|we|you|one) (?:had|have|must|need|look|zoom)| looking|(?: i'm| i am)? forced| pressed)"
    r"(?:(?!\b(?:but|however|(?<!if )so|therefore)\b)[^.!?;\n]){0,100}$"
)

# ---- Judgements after a letter or text

_DEGREE = expand(r"""
    (?: «\w{2,14}ly; both; all; also; just; still; of course; indeed; in fact; the; an?; my; most; very; more; even
        too; only; best; final»)*
""")
_MARK = r"[ :.(|,=?-]{1,4}(?:(?:this|that|it) is |it's |→ ?)?(?:\w{2,14}ly )?"  # before one word: ": clearly wrong"
_END = r"(?= ?(?:[.,;:!?()|\n/-]|$)| (?:because|since|as|given|here|for|that|choice|answer|option|one)\b)"
_TOPIC = r" ?(?:是|が|は|은|는|이|가)? ?"  # after a topic in Chinese, Japanese or Korean
# What denies it: "is wrong", "doesn't fit", ": no", "(incorrect)", "✗".
WRONG = pattern(rf"""
    ,?(?: (?:which|however|\w{{2,14}}ly|both|all|also))*
    (?:
        (?: «is; was; are; were; would be; seems?; looks?; (?:must|can|could|should|may) be»|'s){_DEGREE}
        [ ]«not; no; wrong; incorrect; false; inaccurate; invalid; out; ruled out; eliminated; excluded; dismissed
        unlikely; impossible; never; implausible; irrelevant; less»\b
        |[ ]«\w+n't; cannot; (?:can|does|do|did|would|will|could|should) not; ha(?:s|ve) no; lacks?; fails?
        contradicts?»\b
    )
    |{_MARK}(?:✗|«no; nope; n; wrong; incorrect; false; eliminated; ruled out
        not(?: (?:correct|right|it|this|the answer|a match|possible))?(?! (?:for|that|as|since|because|given|here|one))
    »\b{_END})
    |[ :|(-]{{0,4}}✗
    |{_TOPIC}«错误; 錯誤; 不对; 不正确; 不正確; 错; 間違い; 不正解; ではな; ではあ; じゃな; でない»
    |{_TOPIC}(?:오답|틀|아니|아닙|아님)
""")
# The same of all the letters before it: "A and C are wrong".
ALL_WRONG = pattern(r",? (?:\w{2,14}ly )?(?:are|were|both|all|do|can|could|have|don't|aren't|can't|seem|look)\b")
# What affirms it: "is correct", "is the best answer", ": yes", "✓".
RIGHT = pattern(rf"""
    (?:,? (?:which|\w{{2,14}}ly|also))*
    (?: «is; was; would be; must be; has to be; should be; (?:seems?|looks|appears)(?: to be)?; sounds; feels»|'s)
    (?:
        {_DEGREE}[ ](?:correct|right|true|accurate|better|it|likely|best|most \w+)\b(?! only\b)
        |(?: «the; my; \w{{2,14}}ly; most; best; correct; right; only; final; clear; obvious»)+
        [ ]«answer; option; choice; one; match; fit; solution; pick; guess; winner»\b(?! of\b)
    )
    |,? (?:the|my) (?:\w+ )?answer\b
    |[ ](?:it is|is|does)(?= ?(?:[.!\n]|$))
    |[ ]«wins; fits best; fits better; makes the most sense; gets my vote»\b
    |{_MARK}(?:yes|y|correct|right|true)\b{_END}
    |[ :|(-]{{0,4}}✓
    |{_TOPIC}«正确; 正確; 对的; 對的; 正解; 正しい; 맞; 정답»
""")
_ONLY_IF = r",? ?(?:only )?(?:if|unless|when)\b(?! (?:i|we|you) (?:had|have|must|need))"
# The same after a judgement: "is correct if ...".
CONDITION = pattern(_ONLY_IF)
# What makes it no more than possible: "if ...", "is possible", "might ...", "or ...", "?".
POSSIBLE = pattern(
    rf"{_ONLY_IF}|,? ?(?:(?:is|was|are|seems?|looks?)"
    r"(?: also| quite| very| a)? (?:possible|plausible|tempting|close|similar|option)"
    r"|(?:might|may|could|at first|initially|and/or|or|nor)\b)| ?\?"
)
# A label's own verb: "B matches the image".
FITS = pattern(r"""
    [ ](?:\w{2,14}ly |best )?«match(?:es)?; fits?; works; describes?; depicts?; represents?; corresponds?; shows?
        stands; seems?; appears?; looks?; makes; applies
        is (?:shown|depicted|what|consistent|supported|visible|more|closer|a better|the better)»\b
""")

# ---- Several letters or texts

# Between those that are named together: "A or B", "A, B", "A/B", "A & B", "A and maybe B".
TOGETHER = pattern(r"""
    [ .]{0,4}
    (?:[,/&+|-]|;(?= (?:or|and|maybe|perhaps|possibly)\b)|and/or
        |\b«or; and; nor; vs\.?; versus; plus; as well as; along with; but also; ou; et; oder; und; o; e; y; или; и; ve
        veya; dan; atau; hoặc; eller; och; of; en»\b
        |或者?|和|与|與|及|または|か|と|또는|와|과|หรือ|และ|أو|و|या|और)
    [ ,]*(?:«or; and; also; maybe; perhaps; possibly; even; either; both; the; option; probably»\b ?)*\(? ?
""")
# Between those that stand on lines or in sentences of their own: "A\nB", "A. B.", "1. dog\n2. cat"
LISTED = pattern(r"[ .,;:)/|\n-]{1,4}(?:\d{1,2}[.):] )?")
