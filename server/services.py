"""What every answer is made with."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

from ..jobs.files import VideosFolder
from ..jobs.store import JobStore
from .configuration import Configuration
from .events import Hub
from .supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from ..provenance.policy.screen import Policy
    from .metrics import Metrics


@dataclass
class Services:
    """One of each. policy: None for none. started: time.monotonic."""

    configuration: Configuration
    store: JobStore
    videos: VideosFolder
    hub: Hub
    supervisor: Supervisor
    metrics: Metrics
    policy: Policy | None = None
    started: float = field(default_factory=time.monotonic)


def services(connection: HTTPConnection) -> Services:
    """Return the services of the application that a request came to."""
    found: Services = connection.app.state.services
    return found
