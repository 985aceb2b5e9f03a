"""Patterns for the words that announce an answer, for where it ends, and for answers that are none."""

from __future__ import annotations

from mmi_plugin.answers.words import expand, pattern

# ---- Cues before a letter or text

# Words after which the answer comes. `noun`: "the answer is B"; `trait`: "correct is B"; `verb`: "I choose B";
# `view`: "I think B"; `link`: "so B"; `amend`: "no, wait, B"; `turn`: "but it is B"; `being`: "it is B".
CUE = pattern(r"""
    (?P<noun>\b«
        answer; option; choice; selection; pick; solution; response; verdict; conclusion; result; output; prediction
        decision; reply; ans\.?; assistant; final; judge?ment; alternative; letter; (?:correct|right|best) one
        réponse; choix; antwort; lösung; respuesta; opci[oó]n; resposta; op[cç][aã]o; alternativa; letra; gabarito
        risposta; opzione; ответ; вариант; antwoord; odpowied[źz]; cevap; yanıt; đáp án; câu trả lời; jawaban(?:nya)?
        svar(?:et)?; odpověď; válasz; răspuns(?:ul)?; відповідь; απάντηση; vastaus
    »\b|«
        答案; 选项; 選項; 正解; 回答; 答え; 答; 解答; 結論; 结论; 選択; 정답; 답변; 답
        คำตอบ; الإجابة; الجواب; إجابة; תשובה; پاسخ; उत्तर; जवाब; উত্তর
    »)|(?P<verb>\b«
        choos(?:e|ing); chosen?; pick(?:s|ed|ing)?; select(?:ed|ing|s)?
        (?:go(?:ing)?|went|stick(?:ing)?) (?:with|for); opt(?:ing)? for; vote(?: for)?
        (?:respond|reply|answer)(?:ing)? with; (?:identif(?:y|ied)|label|classif(?:y|ied))(?: \w+){0,2} as
        label (?:it|this|that)(?: as)?; belongs to(?: (?:class|category|group))?; falls under; settl(?:e|ing) on
        (?:lean|tend)(?:ing)?(?: towards?)?; answer; bet on; prefer; mark; lea(?:ves?|ving)(?: us with| only)?
        left with; means?; meaning; makes; meant; correspond(?:s|ing)? (?:to|with); match(?:es)?(?:ing)?(?: with)?
        aligns with; point(?:s|ing)? to; consistent with; wähle; choisis; elijo; escolho; scelgo; выбираю
    »\b|应?选择?|應?選擇?|を?選び)
    |(?P<trait>\b«correct[aeo]?; corrett[ao]; richtig; korrekt; верно; правильно; class; label; category»\b)
    |(?P<view>\b«say; think; believe; guess; conclude; suspect; feel; doubt; only; likely; take; put; we (?:get|have)
        \w{3,14}ly; sure; okay; ok; alright; well; yes»\b)
    |(?P<link>\b«so; thus; therefore; hence; then; ergo; finally; ultimately; overall; consequently; accordingly; donc
        also; deshalb; entonces; portanto; quindi; logo»\b|→|=>|->|=|所以|因此|故|于是)
    |(?P<amend>\b«wait; actually; no; nope; correction; corrected; sorry; oops; h+m+; scratch that; i mean
        on second (?:thought|look)s?; rather; make that; my mistake; instead; take that back»\b|更正|不对)
    |(?P<turn>\b«but; however; though; sino; mais; sondern; aber; ma; pero; mas; но»\b|而是|但是|但)
    |(?P<being>\b«(?:it|that|this|which) (?:is|must be|has to be|should be|would be); it's; that's; c'est; es ist
        è; es; это; isso é; está em»\b|应该是|应为|是)
""")
_IS = expand(r"""
    (?:\b«is; was; are; be; being; becomes; remains; s; est; ist; lautet; wäre; es; é; è; это; to; jest; là; adalah
        yaitu; är; er; este; je; είναι; on»\b|'s\b|[:=→>-]|[是为為は은는이가を]|คือ|هي|هو|היא|است|है|হল)
""")
# What may stand between a cue and the answer.
_FILL = expand(r"""
    (?:[ \n:=→>,.(_-]|\b«is; are; was; be; it; it's; that; to; that's; this; must; has; should; would; will
        of course; in my opinion; most; \w{2,14}ly; therefore; thus; then; wait; no; nope; actually; hmm; sorry
        option; number; letter; indeed; still; just; also; really; now; either; both; i; i'd; i'll; i'm; say; think
        believe; guess; choose; pick; go; with; la; el; le; lo; il; die; der; das; o; a(?= \(?[B-Z]\b); ist; est; es
        é; è; one; on; for; us; only; as; my; answer»\b|[是为為は은는이가を选選应應该該项項])*
""")
# From a noun to its answer: " to this question is therefore ", ": ", or just a blank.
AFTER_NOUN = pattern(
    rf"(?:[^.!?;\n]{{0,60}}?(?<!may )(?<!might )(?<!could ){_IS}{_FILL}| ?\)? ?\(? ?|\n+|[ :]{{1,2}}\n{_FILL})"
)
# From "correct" to the answer: ": ", " one here is ".
AFTER_TRAIT = pattern(rf"[^.!?;\n]{{0,20}}?{_IS}{_FILL}")
AFTER_WORD = pattern(_FILL)
"""From any other cue to its answer."""
# That a text after a cue is asserted: "so it is three".
ASSERTED = pattern(r"\b(?:it|it's|this|that|that's|is|be|answer)\b|是")

# ---- Beginnings and ends

# Before what begins a sentence, a line or a cell.
HEAD = pattern(r"[.!?:;|\n][^\w(\0]{0,5}$")
# Before what follows one phrase and a comma: "From the image, B."
PHRASE = pattern(r"(?:^|[.!?\n] ?)[^.!?\n:;,\0]+, ?\(?$")
# Before what begins a clause, but for a conjunction.
NO_WORDS = pattern(r"\W*(?:and|but|so|because|since|that|as)?\W*")
# After what ends its line; after the label of an item of a list.
ALONE = pattern(r" ?[.!]{0,5} ?(?:\n|$)")
ITEM = pattern(r" ?[.:)|-]")
SENTENCE_END = pattern(r"[.!?\n]")
# The end of a sentence.
STOP = pattern(r" ?(?:[.!;)\n]|$)")
_WHY = "because|since|as|due|given|according|over|rather|instead|not"
_BREAK = r" ?(?:[.,;:!()\n|-]|$)| ?[\u3040-\uffef]| [^\x00-\u024f]"
# What may follow a letter that begins an answer, and one that a cue announces.
OPENING = pattern(rf"{_BREAK}| (?:{_WHY}|it is|i (?:think|guess|believe)|for sure)\b")
PAUSE = pattern(rf"{_BREAK}| (?:{_WHY}|for|is|in|with|i|if|it|can|fits|matches|works|applies|remains)\b")
# An answer that breaks off where another option could follow.
BROKEN_OFF = pattern(r"""
    \b«but; however; although; though; or; nor; and; not; while; whereas; except; than; either; neither; between»
        [\s,]*$
""")

# ---- The whole answer

# It says that it cannot answer ...
REFUSED = pattern(r"""
    \b«(?:i|we)(?:'m| am| are)? (?:not (?:sure|certain|able)|unsure|unable|sorry|can't|cannot|can not)
        (?:i|we) (?:don't know|do not know|couldn't|could not); no idea; unable to
        can(?:not|'t) (?:be )?(?:determined?|tell|identif\w+|answer\w*|sa[iy]\w*); not possible; not clear
        isn't clear; unclear; not enough; insufficient; impossible to; no way to; as an? (?:ai|language model|large)
        (?:hard|difficult) to (?:tell|say|determine); need more; illegible»\b|无法|不能确定|不知道
""")
# ... and does so all the same.
NEVERTHELESS = pattern(
    r"\b(?:but|however|nevertheless|nonetheless|still|yet|that said|though|anyway|general knowledge)\b"
)
# It announces to go through the options.
GOES_THROUGH = pattern(r"""
    \b«analy[sz]\w+; consider; evaluate; examine; go through; look at; review; compare; check; assess; break down
        go over»\b[^.!?\n]{0,30}\b(?:option|choice|answer|possibilit|candidate)
        |\blet(?:'s| me| us) (?:first )?(?:consider|start with|begin with|take)\b
""")
# The head of a list of options.
LIST_HEAD = pattern(r"(?:\b(?:options|choices|candidates|alternatives)(?: are| include)? ?:?\s*|\boption ?:?\n)$")

# ---- Options such as "one" and "no", which elsewhere are mere parts of speech: "the one", "no other"

PART_BEFORE = pattern(r"""
    \b«the; this; that; which; no; any; each; every; only; correct; right; wrong; best; last; first; other; another
        option; some»\W?$
""")
NAMED_AFTER = pattern(r" ?(?:[.,!?:;)\n]|$)| \(| (?:and|or)\b")
# A label as the subject of a judgement: "B is right", where "right" is an option too.
JUDGED = pattern(r"(?:\b[A-Z]\)?|\boption) (?:is|was|seems|looks|sounds|must be|would be)(?: the)? $")

# Before a full stop that ends no sentence: "Dr. B".
ABBREVIATED = pattern(r"\b(?:dr|mrs?|ms|prof|st|figs?|no|vs|sec|ch|pp?|vol|ed|eq|ex|inc|jr|sr|e\.g|i\.e|cf)\. ?$")
