"""What all speaker models share."""

import pytest

from nessa.encoders.base import importing
from nessa.errors import InputError


def test_a_library_that_is_not_there_is_named_with_its_extra() -> None:
    told = pytest.raises(InputError, match=r"No module named 'a_library'.*'nessa\[its_extra\]'")
    with told, importing("A library", "its_extra"):
        import a_library  # type: ignore[import-not-found]  # noqa: F401


@pytest.mark.parametrize("kind", [OSError, RuntimeError])
def test_a_library_of_another_torch_is_explained_in_a_line(kind: type[Exception]) -> None:
    with pytest.raises(InputError) as told, importing("A library", "its_extra"):
        raise kind("libcudart.so.13: cannot open shared object file\nTraceback: ...")
    assert "libcudart.so.13" in str(told.value) and "torchaudio" in str(told.value)
    assert "\n" not in str(told.value)
