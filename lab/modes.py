"""The modes of the lab by name, the better one first."""

from lab import emulated, hosts
from lab.field import Mode

MODES = (Mode("hosts", hosts.cannot, hosts.opened), Mode("emulated", lambda: "", emulated.opened))
