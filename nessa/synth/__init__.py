"""The mini corpus: synthetic speakers, sessions and utterances from espeak-ng.

`voices` draws speakers and what they say, `espeak` synthesizes it, `acoustics` draws the channel,
room and noise of each session, `background` makes noises and rooms for augmentation, and `tree`
writes it all as a folder laid out like VoxCeleb.
"""

from nessa.synth.acoustics import SAMPLE_RATE, AcousticRanges
from nessa.synth.tree import Settings, synthesize_corpus
from nessa.synth.voices import VoiceRanges

__all__ = ["SAMPLE_RATE", "AcousticRanges", "Settings", "VoiceRanges", "synthesize_corpus"]
