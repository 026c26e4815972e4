"""TLS contexts: the one base context of a tree, and one context per distinct TLS policy.

How a session resumes in another process. Every OpenSSL context makes random ticket keys, and none of the Python
bindings can set them. But OpenSSL seals and opens tickets with the keys of the context that a connection was
*created* with, not of the one that it was switched to. So the supervisor makes one base context before it forks;
each connection is created from it and then switched to the context of its route. All acceptors, and those forked
later, share the base context's keys, and a ticket from one of them opens in any other.

What keeps routes apart is the session id context: a digest of the route's identity and client authority, which
OpenSSL writes into the ticket and compares when it comes back (SSL_CTX_set_session_id_context(3)). A session made
under one certificate or one client authority is therefore never taken up under another.
"""

from __future__ import annotations

import hashlib
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto

from symphony.config.snapshot import ClientAuthority, Identity, TlsPolicy
from symphony.tls import library

SESSION_LIFETIME_S = 7200

# Forward secrecy and authenticated encryption only (RFC 9325 section 4.2). AES-128 first: it is as strong as anything
# around it, and with SHA-256 costs less in handshake and bulk than AES-256 with SHA-384. A client that puts ChaCha20
# first has no AES in hardware and gets it.
_TLS12_CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    b"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    b"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
_TLS13_CIPHERS = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
_OP_PRIORITIZE_CHACHA = 1 << 21  # SSL_OP_PRIORITIZE_CHACHA of openssl/ssl.h, which pyOpenSSL does not name


def _new_context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    # A client that closes without close_notify ends its direction as one that sends it does. Most HTTP clients
    # close so; without this option OpenSSL fails the whole connection, and the answer under way is lost.
    context.set_options(SSL.OP_IGNORE_UNEXPECTED_EOF)
    context.set_options(_OP_PRIORITIZE_CHACHA)
    context.set_cipher_list(_TLS12_CIPHERS)
    context.set_tls13_ciphersuites(_TLS13_CIPHERS)
    # Tickets carry the session; a cache in one process could not serve the others and would only grow.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_timeout(SESSION_LIFETIME_S)
    # RELEASE_BUFFERS halves what an idle connection holds. Partial writes would make the relay slice and retry.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    library.disable_partial_writes(context)
    return context


class BaseContext:
    """The context that every connection is created from. Made once, before the first fork."""

    __slots__ = ("_context", "pointer")

    def __init__(self) -> None:
        self._context = _new_context()
        self.pointer: Any = library.pointer(self._context)


class RouteContext:
    """The context of one TLS policy, shared by every route that has it.

    `verify` is the mode to set on each connection, `pointer` what to switch it to.
    """

    __slots__ = ("_context", "pointer", "verify")

    def __init__(self, policy: TlsPolicy, identity: Identity, authority: ClientAuthority | None) -> None:
        """Raises ValueError or OpenSSL.SSL.Error for material that the registry should have refused."""
        context = _new_context()
        leaf, *rest = x509.load_pem_x509_certificates(identity.chain_pem)
        context.use_certificate(leaf)
        for certificate in rest:
            context.add_extra_chain_cert(certificate)
        # The registry has proved the key by a trial signature; the full check takes 48 ms for each RSA key.
        key: Any = load_pem_private_key(identity.key_pem, password=None, unsafe_skip_rsa_key_validation=True)
        context.use_privatekey(key)
        context.check_privatekey()
        self.verify = library.VERIFY_NONE
        if authority is not None:
            self.verify = library.VERIFY_REQUIRED if authority.required else library.VERIFY_OPTIONAL
            store = context.get_cert_store()
            assert store is not None, "a server context always has a trust store"
            # An intermediate authority alone is a sufficient anchor: it is what the user said to accept.
            store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
            for anchor in x509.load_pem_x509_certificates(authority.ca_pem):
                store.add_cert(crypto.X509.from_cryptography(anchor))
                context.add_client_ca(anchor)
        context.set_session_id(session_id_context(policy))
        library.offer_alpn(context, policy.http2)
        library.discard_errors()
        self._context = context
        self.pointer: Any = library.pointer(context)


def session_id_context(policy: TlsPolicy) -> bytes:
    """32 bytes that are equal just for policies between which a session may be taken up."""
    return hashlib.sha256(f"{policy.identity}\0{policy.client_authority}".encode()).digest()
