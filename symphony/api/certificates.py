"""The certificates of a running instance, or those that a configuration would serve."""

from __future__ import annotations

from symphony.api.names import REGISTRY
from symphony.config.resolve import load
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxError, ask
from symphony.messages.registry import CertificatesDescribed, DescribeCertificates, RegistryReply
from symphony.routing.certificates import ServedCertificate, served_certificates


async def ask_certificates(runtime_dir: str, timeout_s: float) -> tuple[ServedCertificate, ...]:
    """Ask the registry in `runtime_dir` what it serves. Raises MailboxError when it does not answer in time."""
    path = mailbox_path(runtime_dir, REGISTRY)
    described = await ask(path, DescribeCertificates(), RegistryReply, timeout_s)
    if not isinstance(described, CertificatesDescribed):
        raise MailboxError("the answer is of another kind than was asked for")
    return described.certificates


def configured_certificates(file: str) -> tuple[ServedCertificate, ...]:
    """Read the configuration at `file`. Raises ConfigError when it cannot be used."""
    return served_certificates(load(file).require()[1])
