"""The patterns, by name."""

from tests.growth.measuring import PATTERNS
from tests.growth.patterns import calls, consuming, life, servers, watching

__all__ = ('PATTERNS', 'calls', 'consuming', 'life', 'servers', 'watching')
