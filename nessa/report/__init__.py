"""All metrics of a run: results.json, a page in Markdown and HTML, and figures."""

from nessa.lazy import lazy_names

_MODULES = {"write_report": "nessa.report.results"}

__all__ = [*_MODULES]
__getattr__ = lazy_names(__name__, _MODULES)
