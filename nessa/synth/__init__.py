"""The mini corpus: synthetic speakers, sessions and utterances from espeak-ng.

`voices` draws who speaks and what, `espeak` speaks it, `acoustics` draws where it is heard,
`background` makes noises and rooms to train with, and `tree` writes it all as a VoxCeleb-shaped
folder.
"""

from nessa.synth.acoustics import SAMPLE_RATE, AcousticRanges
from nessa.synth.tree import SetPlan, synthesize_corpus
from nessa.synth.voices import VoiceRanges

__all__ = ["SAMPLE_RATE", "AcousticRanges", "SetPlan", "VoiceRanges", "synthesize_corpus"]
