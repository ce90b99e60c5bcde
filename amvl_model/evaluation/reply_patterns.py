"""The regular expressions of `amvl_model.evaluation.parsing`, in the order of its rules.

All run on cleaned replies (Unicode NFKC, straight apostrophes). Single letters keep their case, since "A" may be a
label and "a" hardly ever is; words match in any case.
"""

from __future__ import annotations

import re

_TO_NINE = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TO_EIGHTEEN = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"]
NUMBER_WORDS = [*_TO_NINE, *_TO_EIGHTEEN, "nineteen", "twenty"]
WEAK_TEXTS = frozenset({"no", "none", "both", "neither", "all", "either"})
"""Option texts that are common words: read only where a stop follows."""

STOP = r"(?=\s*(?:\Z|[.,;:!?)\]}>\"'\n、。，；！？]|(?:because|since|as|due)\b))"
AT_STOP = re.compile(STOP)
SEPARATOR = re.compile(
    r"(?:[^\S\n]|[.,;:=)\]}>\"'’”\-–—→/&+|、。])*(?:(?:and/or|or|and|as\s+well\s+as)(?![a-z])|和|或|与|及)?[^\S\n]*",
    re.IGNORECASE,
)
RUN_ON = re.compile(r"(?<![A-Za-z])([A-Z])\s*[(\[]\s*(?=([A-Z])(?![A-Za-z]))")
"""Two letters with nothing but an opening bracket between them, as in "(B(A", which a model that lost its way repeats."""
OR = re.compile(r"[\s,;.]*(?:or(?![a-z])|或)", re.IGNORECASE)
SENTENCE_STOP = re.compile(r"[.!?\n。！？](?!\d)")
OPENERS = re.compile(r"(?:[^\S\n]|[\"'“‘「])*")
BLANKS = re.compile(r"\s*")
ONLY_PUNCTUATION = re.compile(r"[\s\W_]*\Z")

# Cleaning (rule 0).
THOUGHT_TAGS = r"(?:think|thinking|thought|thoughts|reasoning|reason|analysis)"
THOUGHT = re.compile(rf"<{THOUGHT_TAGS}>.*?(?:</{THOUGHT_TAGS}>|\Z)", re.IGNORECASE | re.DOTALL)
THOUGHT_UNOPENED = re.compile(rf"\A.*</{THOUGHT_TAGS}>", re.IGNORECASE | re.DOTALL)
SPECIAL_TOKEN = re.compile(r"<\|[^|<>]*\|>|</?s>|</?pad>", re.IGNORECASE)
STRAY_CLOSE = re.compile(r"</answer>", re.IGNORECASE)
LATEX_FONT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathsf|mbox)\s*\{([^{}]*)\}")
LATEX_DELIMITER = re.compile(r"\\[()\[\]]|\$")
MARKDOWN = re.compile(r"\*+|`+|__|(?m:^[ \t]*(?:#+|>+)[ \t]*)")

# Explicit statements (rule 2).
ANSWER_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)(</answer>|\Z)", re.IGNORECASE | re.DOTALL)
BOXED = re.compile(r"(?:\\|\x08)?f?b?oxed\s*\{", re.IGNORECASE)
LINK = (
    r"(?:(?:is|was|are|(?:would|should|must|will|could|may|might|can|has\s+to|seems\s+to|appears\s+to)"
    r"(?:\s+(?:therefore|thus|then|\w+ly))?\s+be|would\s+then\s+be)(?![a-z])|=+>?|:|-+>|→|—|–)"
)
CUE = re.compile(
    r"(?<![a-z])(?<!each\s)(?<!every\s)(?<!any\s)(?:answer|ans|choice|option|solution|selection|pick|guess|conclusion|response|prediction)"
    r"(?:\s+(?:choice|option))?(?:\s+(?:to|for)\s[^.\n:]{0,80}?)?[\"']?"
    rf"(?:\s*{LINK})(?:\s*:)?"
    r"|(?<![a-z])(?:i|we)(?:'d|'ll|\s+would|\s+will|\s+must)?\s+"
    r"(?:choose|chose|pick|select|go\s+with|say|answer|opt\s+for|vote\s+for)(?![a-z])(?:\s*:)?"
    r"|(?:答案|选项)(?:应该|应|就)?(?:是|为|选|:)(?:\s*:)?|(?<!不)(?<!不应)选择?(?!项|择)(?:\s*:)?",
    re.IGNORECASE,
)
WEAK_CUE = re.compile(
    r"(?<![a-z])(?:so|therefore|thus|hence|consequently|in\s+conclusion|finally|(?:i|we)\s+(?:think|believe|guess)"
    r"(?:\s+that)?)(?![a-z])[,:]?\s*(?:(?:it\s+is|it's|it\s+must\s+be|that\s+is|that's)(?![a-z]))?"
    r"|(?:因此|所以|故|应该是)[,:]?",
    re.IGNORECASE,
)
FILLER = re.compile(
    r"\s*(?:the|that|it|is|it's|clearly|probably|likely|most\s+likely|definitely|indeed|therefore|thus|simply|just|"
    r"actually|obviously)(?![a-z])",
    re.IGNORECASE,
)
IS_CORRECT = re.compile(
    r"\s*(?:is|would\s+be|must\s+be|should\s+be|has\s+to\s+be|seems|looks|appears)(?:\s+to\s+be)?\s+"
    r"(?:(?:definitely|clearly|most\s+likely|likely|probably|therefore|thus)\s+)?(?:(?:the|my)\s+)?"
    r"(?:final\s+|most\s+likely\s+|best\s+|correct\s+|right\s+)?"
    r"(?:correct(?!\s+only)|(?:right|most\s+likely)(?=\s*(?:[.,;!]|\Z))|answer|"
    r"(?<=best\s)(?:choice|option|match)|(?<=right\s)(?:choice|option|one))(?![a-z])",
    re.IGNORECASE,
)
CONDITION = re.compile(r"(?<![a-z])(?:if|whether|suppose|assuming|unless|when|were)(?![a-z])", re.IGNORECASE)

# Opening and mentions (rules 3 and 4).
RETRACTION = re.compile(
    r"(?<![a-z])(?:wait|actually|correction|on\s+second\s+thought|however|instead)(?![a-z])", re.IGNORECASE
)
REFUSAL = re.compile(
    r"(?:cannot|can't|can\s+not|could\s+not|couldn't|unable\s+to|not\s+able\s+to|impossible\s+to|hard\s+to|difficult\s+to"
    r"|not\s+possible\s+to)\s+(?:\w+\s+){0,2}?(?:determine|determined|tell|answer|say|see|assist|help|provide|identify|"
    r"decide|choose|judge|view)|i'm\s+sorry|i\s+am\s+sorry|\bsorry,|\bi\s+apologi[sz]e|(?:don't|do\s+not)\s+know|"
    r"not\s+(?:sure|certain|clear)|as\s+an\s+ai\b|no\s+idea|insufficient|unclear|not\s+enough|no\s+way\s+to|"
    r"\A\W*(?:both|neither|none|either|all)\b|无法|不知道|抱歉|不确定",
    re.IGNORECASE,
)
CLAUSE_START = re.compile(
    r"[.;:!?,\n。，；！？]|(?<![a-z])(?:(?<!anything\s)(?<!everything\s)(?<!all\s)but|then|so|because)(?![a-z])|而是",
    re.IGNORECASE,
)
NEGATED_BEFORE = re.compile(
    r"(?<![a-z])(?:not|\w+n't|never|neither|nor|cannot|without|except|exclud\w+|eliminat\w+|rul\w+\s+out|rather\s+than|"
    r"instead\s+of|(?:anything|everything|all)\s+but|than|unlike|versus|vs|at\s+least|at\s+most|up\s+to|compared\s+(?:to|with)|doubt|false|wrong|"
    r"incorrect|untrue)(?:\W+\w+){0,4}\W*\Z|(?:不|非|排除)\W*(?:是|选|为)?\W*\Z",
    re.IGNORECASE,
)
NEGATED_AFTER = re.compile(
    r"[\s)\]\"']*(?:(?:is|was|are|does|do|did|would|could|should|can|has|must|will)(?:\s+not(?![a-z])|n't)|cannot|can't|"
    r"won't|(?:is|are|was|looks|seems|appears|must\s+be)\s+(?:\w+ly\s+|to\s+be\s+)?(?:wrong|incorrect|false|untrue|"
    r"impossible|unlikely|excluded|eliminated|ruled\s+out)(?![a-z])"
    r"|(?:can|could|should)\s+be\s+(?:excluded|eliminated|discarded|ruled\s+out)|不(?:对|是|正确)|错)",
    re.IGNORECASE,
)
LETTER_STANDS = re.compile(
    r"(?:\A|(?<![a-z])(?:is|be|are|was|being|it's|that's|maybe|perhaps|probably|likely|definitely|clearly|surely|certainly|"
    r"obviously|hence|thus|therefore|so|as|to|with|like|chooses?|selects?|picks?|match|matches|say|or|and|not|either|both|"
    r"label+ed|marked|named|called)|[是选为])\W*\Z",
    re.IGNORECASE,
)
TALKED_ABOUT = re.compile(
    r"(?:look\w*\s+at|consider\w*|examin\w*|inspect\w*|analy[sz]\w*|focus\w*\s+on)\W+(?:\w+\W+){0,2}\Z"
    r"|\A\s*(?:in|at|on|for|from)\s+(?:the\s+)?\W*\Z",
    re.IGNORECASE,
)
LETTER_IN_A_PLACE = re.compile(
    r"(?<![a-z])(?:at|of|in|on|near|from|by|between|around|behind|before|after|under|above|below|towards?|about)"
    r"\s+(?:the\s+)?\W*\Z",
    re.IGNORECASE,
)
CONDITION_BEFORE = re.compile(r"(?<![a-z])(?:if|unless|whether)(?![a-z])[^.!?\n]*\Z", re.IGNORECASE)
THERE_IS = re.compile(r"(?<![a-z])there\s+(?:is|are|was|were)\s+(?:(?:only|just|exactly)\s+)?\Z", re.IGNORECASE)
LIST_ITEM = re.compile(r"\n\s*(?:[-•]\s*)?(?:option\s+)?\(?([A-Z])[.):]\s*\w", re.IGNORECASE)
NUMBERED_THING = re.compile(
    r"(?<![a-z])(?:image|picture|photo|figure|fig\.|step|panel|frame|question|option|choice|point|box)\s*#?\Z",
    re.IGNORECASE,
)
RIGHT_IDIOM = re.compile(r"all\s+right|right\s+(?:answer|choice|option|away|now)", re.IGNORECASE)

# A letter: in brackets, after a word that announces a label or a mark in the picture, or bare.
ANNOUNCED = (
    r"(?<![A-Za-z0-9_])(?<!\w['’\-])(?:(?P<label>(?i:option|choice|answer|letter|选项))[ \t]*[:#]?[ \t]*|"
    r"(?P<mark>(?i:point|box|image|picture|photo|figure|panel|region|object|circle))\s+)?"
)
LETTER = (
    r"[\"'“‘「]?(?:[(\[{<【]{1,2}\s*(?P<bracketed>[A-Za-z])(?=\s*(?:[)\]}>】.:]|\Z))\s*[)\]}>】]{0,2}"
    r"|(?P<bare>[A-Za-z])(?![A-Za-z0-9_])(?![\-'’]\w)(?!\.[a-z]|\.[A-Z]\.)(?P<half>\))?)(?:\s*选项)?"
)
AFTER_ARTICLE_LETTER = re.compile(
    r"\s*(?:\Z|[.,;:!?)\]}>\"'、。，；：！？\-–—/&+|]|[^\x00-\x7f]|"
    r"[A-HJ-Z](?![\w'’])|(?:because|since|as|due|and|or|but|not|based|given|is|was)\b)"
)
AFTER_LETTER = re.compile(STOP + r"|\s*(?:[-–—/&+|]|(?:or|and)\b|[^\x00-\x7f])")
AFTER_MENTION = re.compile(STOP + r"|\s*(?:[/&+|→]|(?:or|and|rather|instead)\b)")
AFTER_PRONOUN_LETTER = re.compile(r"\s*(?:\Z|[.:)\]}>\n])")
