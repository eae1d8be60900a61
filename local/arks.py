#!/usr/bin/env python3
"""Stage prepare: utt2spk and trials -> data directories of sets that have embeddings, but no audio.

corpus.paths names a directory for all sets or one per set, see local/division.py. Each holds
utt2spk and, optionally, utt2session, utt2domain, spk2gender, spk2set, trials, and enroll_map or
spk2utt with the profiles that trials name. Tables about audio or features are not read.

    python local/arks.py --recipe exp/recipe.yaml --corpus data/corpus --output data
"""

import logging
from pathlib import Path

from division import Part, find_parts, warn_of_no_sessions
from program import corpus_arguments, run_program

from nessa.corpus.domains import check_names
from nessa.corpus.sets import clear_set, remove_other_sets
from nessa.corpus.speakers import COMPARED
from nessa.corpus.tables import validate_tables
from nessa.errors import InputError
from nessa.files import write_table
from nessa.kaldi.datadir import GIVEN_MAP, is_there, read_optional, read_utt2spk, spk2utt_of
from nessa.trials import write_enroll_map

log = logging.getLogger(__name__)


def main() -> None:
    """Write a data directory per set."""
    arguments = corpus_arguments(__doc__, sets_of=lambda recipe: COMPARED)
    if arguments.skip_bad:
        raise InputError(
            "--skip-bad is about audio, and this recipe has embeddings; take the utterances "
            "without a vector out of utt2spk"
        )
    parts = find_parts(arguments.recipe, arguments.corpus, COMPARED, read_speakers)
    for name, part in parts.items():
        domains = read_optional(part.directory, "utt2domain")
        names = {domains[utterance] for utterance in part.utt2spk if domains}
        check_names(sorted(names), f"{part.directory}, domains of set {name!r}")
    remove_other_sets(arguments.output, parts)
    for name, part in parts.items():
        directory = arguments.output / name
        clear_set(arguments.output, name)
        write_directory(directory, part)
        speakers = len(set(part.utt2spk.values()))
        log.info("%s: %d speakers, %d utterances", directory, speakers, len(part.utt2spk))


def read_speakers(directory: Path) -> dict[str, str]:
    """{utterance: speaker} of a directory; refuses tables that are not as they should be.

    All are looked at but those about audio and features, which may be elsewhere.
    """
    if problems := validate_tables(directory, has_audio=False):
        raise InputError("\n".join(problems))
    if not is_there(directory / "utt2session"):
        warn_of_no_sessions(directory)
    return read_utt2spk(directory)


def write_directory(directory: Path, part: Part) -> None:
    """Write a set's tables; utt2spk last, for it marks the directory as complete."""
    write_table(directory / "utt2session", sessions_of(part))
    speakers = set(part.utt2spk.values())
    for name, keys in (("spk2gender", speakers), ("utt2domain", part.utt2spk.keys())):
        if table := read_optional(part.directory, name):
            write_table(directory / name, {key: table[key] for key in keys})
    write_table(directory / "spk2utt", spk2utt_of(part.utt2spk))
    for path, trials in part.lists.items():
        trials.write(directory / path.name)
    if part.profiles:
        write_enroll_map(directory / GIVEN_MAP, part.profiles)
    write_table(directory / "utt2spk", part.utt2spk)


def sessions_of(part: Part) -> dict[str, str]:
    """{utterance: session}; without utt2session, every utterance is a session of its own."""
    sessions = read_optional(part.directory, "utt2session")
    return {utterance: sessions[utterance] if sessions else utterance for utterance in part.utt2spk}


if __name__ == "__main__":
    run_program(main)
