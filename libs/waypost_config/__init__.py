"""Resources to configuration, without I/O but reading files: models, validation, manifests, compiler, conditions.

Its public parts: `manifests.load`, `manifests.read` and `check`; `compiler.compile_manifests`; `status`; `table.table`;
`devtoken`.
"""

from .check import check
from .manifests import Manifests, Problem

__all__ = ["Manifests", "Problem", "check"]
