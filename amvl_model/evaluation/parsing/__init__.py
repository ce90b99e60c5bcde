"""Which option a reply chooses.

parser     parse_choice: the four steps and their rules
text       cleaning; tokens
kinds      kinds of items
lexicon    the phrases of each kind, in eleven languages
items      the items of a text: options, phrases, signs
groups     options named together, negated or under a condition as a whole
"""

from amvl_model.evaluation.parsing.parser import parse_choice

__all__ = ["parse_choice"]
