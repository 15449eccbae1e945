"""The demo's tokenizer: whole words of the captions, lower case, punctuation ignored."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Replace, Sequence
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from ..clips import subjects

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
# Words of films' captions that no single clip's has: after all others, whose numbers the first training gave out.
NEW_WORDS = ["it", "then"]


def build_tokenizer() -> Tokenizer:
    """Return the tokenizer of every word that any caption uses; a prompt ends in END, an empty one is END alone."""
    words = sorted({word for subject in subjects() for caption in subject.captions() for word in caption.split()})
    words += NEW_WORDS
    vocabulary = {word: index for index, word in enumerate([PAD, END, UNKNOWN, *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = Sequence([Lowercase(), Replace(Regex(r"[.,;:!?\"()]"), " ")])
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single=f"$A {END}", special_tokens=[(END, vocabulary[END])])
    return tokenizer
