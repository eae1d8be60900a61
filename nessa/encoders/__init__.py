"""Speaker models behind one interface: audio in, embeddings out; ours, and pretrained ones."""

from nessa.lazy import lazy_names

_MODULES = {
    "GivenEmbeddings": "nessa.encoders.arks",
    "SpeakerModel": "nessa.encoders.base",
    "TrainedModel": "nessa.encoders.trained",
    "build": "nessa.encoders.trained",
    "fingerprint": "nessa.encoders.trained",
    "load_model": "nessa.encoders.models",
    "parse_settings": "nessa.encoders.kinds",
    "save_model": "nessa.encoders.trained",
    "save_pretrained": "nessa.encoders.models",
}

__all__ = [*_MODULES]
__getattr__ = lazy_names(__name__, _MODULES)
