"""The modes of the lab by name, the preferred one first."""

from edgecloud.lab import emulated, hosts
from edgecloud.lab.testbed import Mode

MODES = (Mode("hosts", hosts.cannot, hosts.opened), Mode("emulated", lambda: "", emulated.opened))
