"""espeak-ng: text and a voice definition to samples."""

import ctypes
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nessa.errors import InputError

SAMPLE_RATE = 22050  # of espeak-ng's output, Hz

_TABLES = ("phondata", "phonindex", "phontab", "intonations", "en_dict")
_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: samples go to the callback, espeak_Synth waits for the end
_CHUNK_MS = 1000  # samples per callback
_CHARACTERS = 1  # espeak_POSITION_TYPE and espeakCHARS_UTF8 share this value
_RATE, _PITCH = 1, 3  # espeak_PARAMETER
_REINSTALL = "reinstall it with `pip install --force-reinstall espeakng-loader`"

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Espeak:
    """The espeak-ng library with a private data folder that takes our own voice files.

    espeak-ng keeps hidden state from one utterance to the next (random generators, pitch phase),
    so that the same call need not return the same samples twice in one process. A process forked
    from a fresh `Espeak` always starts from the same state.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise InputError(
                "the speech synthesizer espeak-ng is missing; run `pip install 'nessa[mini]'`"
            ) from error
        self._home = tempfile.TemporaryDirectory(prefix="nessa-espeak-")
        data = Path(self._home.name) / "espeak-ng-data"
        self._variants = data / "voices" / "!v"
        _make_data_folder(data, Path(espeakng_loader.get_data_path()))
        self._library = _load_library(espeakng_loader.get_library_path())
        self._chunks: list[bytes] = []
        # Held by the object: the library keeps the bare pointer.
        self._callback = _Callback(self._collect)
        if (
            self._library.espeak_Initialize(_SYNCHRONOUS, _CHUNK_MS, self._home.name.encode(), 0)
            != SAMPLE_RATE
        ):
            raise InputError(f"espeak-ng cannot be started; {_REINSTALL}")
        self._library.espeak_SetSynthCallback(self._callback)
        # The first voice loads dictionary and phoneme tables (8 ms): once here, not in every fork.
        self.set_voice("warm-up", "en-us", "language variant\nname warm-up\n", seed=0)

    @property
    def version(self) -> str:
        """Version of the library."""
        self._library.espeak_Info.restype = ctypes.c_char_p
        return str(self._library.espeak_Info(None).decode())

    def set_voice(self, name: str, accent: str, definition: str, seed: int) -> None:
        """Use another voice from now on.

        Args:
            name: of the voice, unique among the processes that share this object.
            accent: one of espeak-ng's English voices, e.g. "en-gb-scotland".
            definition: the text of an espeak-ng voice variant file.
            seed: of the noise that the synthesizer itself adds (breath).
        """
        (self._variants / name).write_text(definition, encoding="ascii")
        if self._library.espeak_SetVoiceByName(f"{accent}+{name}".encode("ascii")) != 0:
            raise InputError(f"espeak-ng has no voice {accent!r}; use one of {', '.join(ACCENTS)}")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))

    def say(self, text: str, rate: int, pitch: int) -> NDArray[np.int16]:
        """Synthesize a text.

        Args:
            text: plain words.
            rate: words per minute, 80 to 450.
            pitch: 0 to 100; 50 is the voice's own.

        Returns:
            Samples at 22050 Hz, shape (N,).
        """
        self._chunks.clear()
        self._library.espeak_SetParameter(_RATE, rate, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        data = text.encode("utf-8") + b"\0"
        size = ctypes.c_size_t(len(data))
        status = self._library.espeak_Synth(data, size, 0, _CHARACTERS, 0, _CHARACTERS, None, None)
        if status != 0:
            raise RuntimeError(f"espeak-ng failed on {text!r} (status {status})")
        return np.frombuffer(b"".join(self._chunks), np.int16)

    def _collect(self, samples: object, count: int, events: object) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))  # type: ignore[arg-type]
        return 0  # carry on


ACCENTS = (
    "en", "en-us", "en-us-nyc", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan",
    "en-gb-x-gbcwmd", "en-029",
)  # fmt: skip


def _load_library(path: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(path)
    except OSError as error:
        raise InputError(f"espeak-ng cannot be loaded ({error}); {_REINSTALL}") from error


def _make_data_folder(data: Path, source: Path) -> None:
    # Links to the few files that English needs: a full copy is 19 MB, and espeak-ng reads
    # every voice that it finds (0.2 s) when it meets a name that is not a file's.
    (data / "voices" / "!v").mkdir(parents=True)
    (data / "lang").mkdir()
    for name in _TABLES:
        (data / name).symlink_to(source / name)
    for voice in (source / "lang" / "gmw").glob("en*"):
        (data / "lang" / voice.name.lower()).symlink_to(voice)
