"""Corpora: utterances on disk -> Lhotse manifests, Kaldi data directories and trial lists."""
