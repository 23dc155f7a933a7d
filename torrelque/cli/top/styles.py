"""The colours of `torrelque top`. styles.tcss says where they are used."""

from __future__ import annotations

from textual.theme import Theme

from torrelque import TorrelqueTaskStatus

__all__ = ('BACKGROUND', 'BAD', 'CALM', 'GOOD', 'IN', 'OUT', 'STATUS', 'STRONG', 'THEME', 'WARN')

BACKGROUND = '#0d1117'
CALM = '#7d8896'
"""For text that needs no attention: zeros, labels, dashes."""
STRONG = 'bold #e6edf3'
GOOD = '#56d364'
WARN = '#e3b341'
BAD = '#ff7b72'
IN = '#79c0ff'
OUT = '#7ee787'

STATUS = {
    TorrelqueTaskStatus.PENDING: WARN,
    TorrelqueTaskStatus.WORKING: '#39c5cf',
    TorrelqueTaskStatus.DELAYED: '#d2a8ff',
    TorrelqueTaskStatus.COMPLETED: GOOD,
    TorrelqueTaskStatus.REJECTED: BAD,
    TorrelqueTaskStatus.EXPIRED: BAD,
}

THEME = Theme(
    name='torrelque',
    primary='#58a6ff',
    secondary='#388bfd',
    accent='#d2a8ff',
    success=GOOD,
    warning=WARN,
    error=BAD,
    foreground='#d0d7de',
    background=BACKGROUND,
    surface=BACKGROUND,
    panel='#1c2430',
    variables={
        'block-cursor-background': '#264466',
        'block-cursor-foreground': '#f0f6fc',
        'block-cursor-text-style': 'bold',
        'block-cursor-blurred-background': '#1c2430',
        'footer-background': '#161c25',
        'footer-key-foreground': '#79c0ff',
        'footer-description-foreground': '#adb8c4',
        'border': '#30405a',
        'scrollbar': '#30405a',
        'scrollbar-background': BACKGROUND,
    },
)
